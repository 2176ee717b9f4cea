"""Crops of source pictures for both stages of the style swap; `FixedViews` around them gives other crops per view."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmseg.datasets import BaseSegDataset
from torch import Tensor

from perception.data.inputs import read_json
from perception.data.segmentation_folder import IMAGE_SUFFIXES, LabelledImage, labelled_images
from perception.data.street_sets import gta_images
from perception.errors import UserError
from perception.generation.datasets import SOURCE_RATIOS, ControlDataset, Cut, SourceDataset
from perception.generation.labels import Vocabulary
from perception.generation.samples import count_labels
from perception.generation.sampling import LabelCounts, RareClassSampler, read_statistics
from perception.training.config.classes import class_names, palette_of
from perception.training.data.transforms import Sample, with_image, with_labels
from perception.training.registry import DATASETS

Part = Literal["all", "train", "val"]


class _Crops(BaseSegDataset):
    """Crops that a torch data set makes; the pipeline goes on from there.

    A crop is a function of (seed, view, number of the picture).
    """

    crops: SourceDataset | ControlDataset

    def __init__(self, names: Sequence[str], metainfo: dict[str, Any], pipeline: Sequence[Any], test: bool) -> None:
        self._names = list(names)
        steps: list[Any] = [self._cut, *pipeline]
        super().__init__(data_prefix={}, metainfo=metainfo, pipeline=steps, test_mode=test)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per picture; `img_path` is its stem."""
        return [{"img_path": name, "number": number, "seg_fields": []} for number, name in enumerate(self._names)]

    def _cut(self, results: Sample) -> Sample:
        self.crops.set_epoch(results.get("view", 0))
        item = self.crops[results["number"]]
        if isinstance(item, Tensor):
            return with_image(results, _bytes(item))
        return with_labels(with_image(results, _bytes(item.image)), item.labels)


@DATASETS.register_module()
class SourceCrops(_Crops):
    """Stage A: random crops of every picture below a folder, resized by a random ratio first (no labels).

    Raises:
        UserError: a folder without pictures, or a picture smaller than the crop at a drawn ratio.
    """

    def __init__(
        self,
        data_root: str,
        folder: str = "images",  # below data_root; pictures of all its folders are taken
        part: Part = "all",
        held_out: int = 200,  # the last so many pictures are the part "val"
        size: tuple[int, int] = (512, 512),  # height, width of the crop [pixels]
        ratios: Sequence[float] = SOURCE_RATIOS,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        root = Path(data_root) / folder
        found = [path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise UserError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)}); check the data root and `folder`")
        files = _part(sorted(found), part, held_out, str(root))
        self.crops = SourceDataset(files, (size[0], size[1]), ratios, seed)
        super().__init__([path.stem for path in files], {"task": "generation"}, pipeline, test_mode)


@DATASETS.register_module()
class ControlCrops(_Crops):
    """Stage B: crops with their label maps, by rare class sampling if wanted.

    With crop="rare" the number of a picture only names a random stream: an epoch is a count, as in the reference.

    Raises:
        UserError: missing or empty folders, pictures or label maps alone, statistics of other files.
    """

    def __init__(
        self,
        data_root: str,
        layout: Literal["gta", "folder"] = "folder",  # images/<stem>, labels/<stem>_labelTrainIds.png; or by split
        split: str | None = None,  # of "folder": images/<split>/<stem>, annotations/<split>/<stem>.png
        names: str | Sequence[str] = "CityscapesDataset",  # the classes, or the data set that knows them
        part: Part = "all",
        held_out: int = 200,  # the last so many pictures are the part "val"
        size: tuple[int, int] = (512, 512),  # height, width of the crop [pixels]
        crop: Cut = "random",  # or rare, centre
        statistics: str | None = None,  # sample_class_stats.json, for "rare"; None: count the label maps now
        temperature: float = 0.01,  # of rare class sampling
        min_pixels: int = 3000,  # a label map qualifies for a class with more pixels than this
        ratios: Sequence[float] = (1.0,),  # of a resize before the crop
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
    ) -> None:
        if (layout == "folder") != (split is not None) or layout not in ("gta", "folder"):
            raise UserError(f"layout={layout!r} came with split={split!r}; expected 'gta', or 'folder' with a split")
        pairs = gta_images(data_root) if split is None else labelled_images(data_root, split)
        pairs = _part(pairs, part, held_out, data_root)
        vocabulary = Vocabulary(tuple(class_names(names)))
        sampler = None
        if crop == "rare":
            counts = _statistics(pairs, vocabulary, statistics)
            sampler = RareClassSampler(counts, temperature, min_pixels)
        self.crops = ControlDataset(pairs, vocabulary, (size[0], size[1]), crop, sampler, ratios, seed)
        about = {"classes": list(vocabulary.names), "palette": palette_of(names)}
        super().__init__([pair.stem for pair in pairs], about, pipeline, test_mode)


def _part(items: Sequence[Any], part: Part, held_out: int, where: str) -> list[Any]:
    """All, all but the last `held_out`, or these."""
    if part not in ("all", "train", "val"):
        raise UserError(f"part is {part!r}; expected one of all, train, val")
    if part == "all":
        return list(items)
    if not 0 < held_out < len(items):
        raise UserError(
            f"{where} has {len(items)} pictures, and held_out is {held_out}; hold out at least one, and leave some"
        )
    return list(items[:-held_out] if part == "train" else items[-held_out:])


def _statistics(pairs: Sequence[LabelledImage], vocabulary: Vocabulary, file: str | None) -> list[LabelCounts]:
    """Pixels per class of these label maps, by file name; counted now or read."""
    files = {pair.labels.name: pair.labels for pair in pairs}
    if file is None:
        return _counted(tuple(pairs), vocabulary)
    document = read_json(file, "the class statistics ")
    try:
        rows = read_statistics(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the class statistics {file} cannot be read ({error!r}); name a sample_class_stats.json, or leave"
            " `statistics` out to count the label maps now"
        ) from error
    known = [row for row in rows if Path(row.file).name in files]
    if len(known) < len(files):
        raise UserError(
            f"the class statistics {file} know {len(known)} of {len(files)} label maps; leave `statistics` out to"
            " count the label maps now"
        )
    return known


@lru_cache(maxsize=4)  # a run builds its data set once to check it and once to use it
def _counted(pairs: tuple[LabelledImage, ...], vocabulary: Vocabulary) -> list[LabelCounts]:
    return count_labels({pair.labels.name: pair.labels for pair in pairs}, vocabulary, _refuse)


def _refuse(reason: str) -> None:
    raise UserError(reason)


def _bytes(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] -> uint8 [H, W, 3]."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()
