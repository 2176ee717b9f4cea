"""Several data sets as one with a controlled ratio, and the proof of what was drawn.

train_dataloader = {
    "sampler": {"type": MixedSampler},
    "dataset": {"type": MixedSources, "datasets": [{...}, {...}], "names": ["gta", "generated"], "shares": [0.5, 0.5]},
}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from perception.data.inputs import read_json
from perception.data.mixing import MixingPlan, Picker
from perception.data.segmentation_folder import read_labels
from perception.errors import UserError
from perception.generation.labels import class_counts
from perception.generation.sampling import LabelCounts, RareClassSampler, read_statistics
from perception.training.registry import DATASETS


@DATASETS.register_module()
class MixedSources:
    """The samples of several data sets, one behind the other; `MixedSampler` draws from them at `shares`.

    Each sample carries the name of its source in the metadata of its `data_samples`, which SourceCounts counts.

    Raises:
        UserError: an empty source, shares that do not fit, or sources of different classes.
    """

    def __init__(
        self,
        datasets: Sequence[dict[str, Any] | BaseDataset],
        names: Sequence[str],  # of the sources, for log and record
        shares: Sequence[float] | None = None,  # of the draws; None: proportional to the numbers of samples
        length: int | None = None,  # draws per epoch; None: the number of samples
    ) -> None:
        self.names, self.shares, self.length = list(names), shares, length
        if not len(set(names)) == len(names) == len(datasets):
            raise UserError(f"MixedSources has {len(datasets)} datasets, but the names {list(names)}; name each")
        self.datasets = [_built(dataset, name) for dataset, name in zip(datasets, names, strict=True)]
        self.full_init()
        self._check_classes()
        self.offsets = np.concatenate([[0], np.cumsum([len(d) for d in self.datasets])])
        self.plan(0)  # reports empty sources and wrong shares

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette, the same in all sources."""
        return self.datasets[0].metainfo

    def full_init(self) -> None:
        """Load the index of every source."""
        for dataset in self.datasets:
            dataset.full_init()

    def plan(self, seed: int) -> MixingPlan:
        """The draws of every epoch."""
        sizes = [getattr(d, "files", len(d)) for d in self.datasets]
        pickers = [getattr(d, "picker", None) for d in self.datasets]
        return MixingPlan(sizes, self.shares, self.length, seed, pickers)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, index: int) -> Any:
        source = int(np.searchsorted(self.offsets, index, side="right")) - 1
        sample = self.datasets[source][index - int(self.offsets[source])]
        sample["data_samples"].set_metainfo({"source": self.names[source]})
        return sample

    def _check_classes(self) -> None:
        first = self.metainfo.get("classes")
        for name, dataset in zip(self.names, self.datasets, strict=True):
            if dataset.metainfo.get("classes") != first:
                raise UserError(
                    f"the sources {self.names[0]} and {name} have different classes: {_short(first)} and "
                    f"{_short(dataset.metainfo.get('classes'))}; map the labels of one to those of the other first"
                )


@DATA_SAMPLERS.register_module()
class MixedSampler(Sampler[int]):
    """Indices into a MixedSources data set by its plan; every process takes its share.

    Raises:
        UserError: another kind of data set.
    """

    def __init__(
        self,
        dataset: MixedSources,
        seed: int | None = None,  # None: the run's
        forever: bool = True,  # epoch behind epoch, for training by iterations; False: one epoch at a time
    ) -> None:
        if not isinstance(dataset, MixedSources):
            raise UserError(f"MixedSampler needs a MixedSources data set, but got {type(dataset).__name__}; use one")
        self.dataset, self.forever, self.start = dataset, forever, 0
        self.plan = dataset.plan(sync_random_seed() if seed is None else seed)
        self.rank, self.world = get_dist_info()

    def __len__(self) -> int:
        return -(-self.plan.length // self.world)

    def __iter__(self) -> Iterator[int]:
        """Indices of this process; the end of an epoch is filled up so that all processes have as many."""
        for epoch in count(self.start) if self.forever else [self.start]:
            draws = self.plan.epoch(epoch)
            indices = self.dataset.offsets[draws[:, 0]] + draws[:, 1]
            yield from np.resize(indices, len(self) * self.world)[self.rank :: self.world].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, of training by epochs."""
        self.start = 0 if self.forever else epoch


@DATASETS.register_module()
class RareClasses:
    """A data set whose samples `MixedSampler` draws by rare class sampling (Hoyer et al. 2022, eq. 10-11).

    Sample i is one label map with one class that it has enough of, in `rare_class`: let RareClassCrop cut around it.
    Without a temperature nothing of that happens.

    Raises:
        UserError: statistics of other files, or no map with enough pixels of any class.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | BaseDataset,
        statistics: str | None = None,  # a sample_class_stats.json; None: count the label maps at the start
        temperature: float | None = 0.01,  # None: every image as often as the others, no class
        min_pixels: int = 3000,  # a map qualifies for a class with more
    ) -> None:
        self.dataset: BaseDataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.dataset.full_init()
        self.files = len(self.dataset)
        self.pairs: list[tuple[int, int | None]] = [(index, None) for index in range(self.files)]
        self.draw: RareClassSampler | None = None
        if temperature is not None:
            self._paths = {Path(self.dataset.get_data_info(i)["seg_map_path"]).name: i for i in range(self.files)}
            self.draw = draw = RareClassSampler(self._counts(statistics), temperature, min_pixels)
            self.pairs = [(self._paths[file], label) for label in draw.classes for file in draw.files[label]]
            self._place = {pair: index for index, pair in enumerate(self.pairs)}

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette of the data set inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """The data set inside is loaded already."""

    @property
    def picker(self) -> Picker | None:
        """Draws samples by their probability; None where all come equally often."""
        return None if self.draw is None else self._pick

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        sample, label = self.pairs[index]
        return self.dataset.pipeline({**self.dataset.get_data_info(sample), "rare_class": label})

    def _pick(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        assert self.draw is not None
        chosen = (self.draw(rng) for _ in range(draws))
        return np.array([self._place[self._paths[file], label] for file, label in chosen])

    def _counts(self, statistics: str | None) -> list[LabelCounts]:
        if statistics is None:
            classes = len(self.metainfo["classes"])
            infos = [self.dataset.get_data_info(i) for i in range(self.files)]
            return [LabelCounts(Path(info["seg_map_path"]).name, _counted(info, classes)) for info in infos]
        rows = _read_rows(Path(statistics))
        if unknown := sorted({row.file for row in rows} - set(self._paths)):
            raise UserError(f"{statistics} names {unknown[0]}, which is not in the data set; leave `statistics` out")
        return rows


def _built(dataset: dict[str, Any] | BaseDataset, name: str) -> BaseDataset:
    if not isinstance(dataset, dict):
        return dataset
    try:
        return DATASETS.build(dataset)
    except ValueError as error:
        if "need at least one array" not in str(error):  # what mmengine says of a data set without samples
            raise
        raise UserError(f"the source {name!r} of MixedSources is empty; check its folders and split") from error


def _counted(info: Mapping[str, Any], classes: int) -> dict[int, int]:
    """Pixels per class of one label map, in the ids that ReadLabels makes of it."""
    label_map: Mapping[int, int] = info.get("label_map") or {}
    pixels: Counter[int] = Counter()
    for found, number in class_counts(read_labels(info["seg_map_path"]), 256).items():
        label = (found - 1) % 256 if info.get("reduce_zero_label") and found < 255 else found
        pixels[label_map.get(label, label)] += number
    return {label: pixels[label] for label in range(classes) if pixels[label]}


def _read_rows(path: Path) -> list[LabelCounts]:
    document = read_json(path, "the class statistics ")
    try:
        rows = read_statistics(document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no readable sample_class_stats.json ({error!r}); leave `statistics` out") from error
    return [LabelCounts(Path(row.file).name, row.pixels) for row in rows]


def _short(classes: Sequence[str] | None) -> str:
    names = list(classes or ())
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
