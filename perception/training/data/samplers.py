"""Which view of `FixedViews` an epoch shows."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS

from perception.errors import UserError
from perception.training.data.datasets import FixedViews


@DATA_SAMPLERS.register_module()
class EpochViews(DefaultSampler):
    """Epoch e shows view e mod `views` of every sample of a `FixedViews` data set, shuffled, once.

    As many views as epochs are fresh random augmentation, the same again after a resume; fewer come back, so that what
    a frozen network computes of them is stored. Every process takes its share.

    Raises:
        UserError: another kind of data set.
    """

    def __init__(
        self,
        dataset: FixedViews,
        shuffle: bool = True,
        seed: int | None = None,  # of the shuffling; None: the run's
        round_up: bool = True,  # repeat some samples, so that all processes have the same number
    ) -> None:
        if not isinstance(dataset, FixedViews):
            raise UserError(f"EpochViews needs a FixedViews data set, but got {type(dataset).__name__}; wrap it in one")
        super().__init__(dataset.dataset, shuffle, seed, round_up)
        self.views = dataset.views

    def __iter__(self) -> Iterator[int]:
        """Indices into the `FixedViews` data set."""
        first = (self.epoch % self.views) * len(self.dataset)
        return (first + index for index in super().__iter__())
