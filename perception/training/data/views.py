"""Versions of the samples of a data set, the same in every epoch, and which of them an epoch shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.registry import DATA_SAMPLERS

from perception.errors import UserError
from perception.training.registry import DATASETS


@DATASETS.register_module()
class FixedViews:
    """Every sample of a data set in `views` versions; view-aware transforms read the number from `view`.

    Item i is view i // len(dataset) of sample i % len(dataset). The views are the same in every epoch, so that the
    features of a frozen backbone are computed once per view.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | BaseDataset,
        views: int,
    ) -> None:
        if views < 1:
            raise UserError(f"FixedViews.views is {views}; expected at least 1")
        self.dataset: BaseDataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.views = views

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette of the data set inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the index of the data set inside."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, index: int) -> Any:
        view, sample = divmod(index, len(self.dataset))
        return self.dataset.pipeline({**self.dataset.get_data_info(sample), "view": view})


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
