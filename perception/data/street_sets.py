"""The street scene sets: where their files are, how to read them.

Of domain generalisation, 19 Cityscapes classes each: GTA 5 (source; Richter et al., Playing for data, ECCV 2016; for
research use; 24,966 frames of 1914 x 1052 pixels), and the validation targets of DGInStyle (arXiv 2312.03048,
section 4): Cityscapes, BDD100K, Mapillary Vistas v1.2, ACDC and Dark Zurich.

CamVid in the SegNet version: 480 x 360 pixels, 11 classes, 367 / 101 / 233 images (Brostow, Fauqueur, Cipolla: Semantic
object classes in video, 2009; split and classes of Badrinarayanan et al., SegNet, 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import getenv
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.segmentation_folder import (
    IMAGE_SUFFIXES,
    LabelledFiles,
    LabelledImage,
    SegmentationFolder,
    by_stem,
)
from perception.data.world import CLASSES, PALETTE  # those of Cityscapes
from perception.errors import UserError

IGNORE = 255  # in training and evaluation
CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
CAMVID_PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
GTA_LABEL_SUFFIX = "_labelTrainIds.png"
GTA_TRAIN_ID = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip  # id in the files of the data set -> Cityscapes train id
_MAPILLARY = {  # ids of v1.2 -> Cityscapes train ids
    0: (13, 24, 41), 1: (2, 15), 2: (17,), 3: (6,), 4: (3,), 5: (45, 47), 6: (48,), 7: (50,), 8: (30,), 9: (29,),
    10: (27,), 11: (19,), 12: (20, 21, 22), 13: (55,), 14: (61,), 15: (54,), 16: (58,), 17: (57,), 18: (52,),
}  # fmt: skip
MAPILLARY_TRAIN_ID = {old: new for new, olds in _MAPILLARY.items() for old in olds}


@dataclass(frozen=True)
class StreetSet:
    """The layout of a set below its root; `{split}` stands for train or val."""

    images: str
    labels: str
    image_suffix: str  # what follows the part of the path that image and label map share
    label_suffix: str
    test_scale: tuple[int, int] = (1024, 512)  # width, height that a test image is fitted into [pixels]
    train_ids: Mapping[int, int] | None = None  # id in the files -> train id, all others ignored; None: train ids


STREET_SETS = {
    "gta": StreetSet("images", "labels", ".png", GTA_LABEL_SUFFIX, (1280, 720)),
    "gta_raw": StreetSet("images", "labels", ".png", ".png", (1280, 720), GTA_TRAIN_ID),
    "cityscapes": StreetSet(
        "leftImg8bit/{split}", "gtFine/{split}", "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    ),
    "bdd100k": StreetSet("images/10k/{split}", "labels/sem_seg/masks/{split}", ".jpg", ".png"),
    "mapillary": StreetSet("{split}/images", "{split}/labels", ".jpg", ".png", train_ids=MAPILLARY_TRAIN_ID),
    "acdc": StreetSet(
        "rgb_anon", "gt", "_rgb_anon.png", "_gt_labelTrainIds.png", (960, 540)
    ),  # <condition>/<split>/<sequence>
    "dark_zurich": StreetSet(
        "rgb_anon/{split}/night", "gt/{split}/night", "_rgb_anon.png", "_gt_labelTrainIds.png", (960, 540)
    ),
}  # fmt: skip
_ARCHIVE_SPLITS = {("mapillary", "train"): "training", ("mapillary", "val"): "validation"}  # folders as they come
_CONDITIONS = {"acdc"}  # sets whose split is the folder below a weather condition


class StreetScenes(LabelledFiles):
    """A source by its name: gta, gta_raw, cityscapes, bdd100k, mapillary, acdc or dark_zurich; Cityscapes train ids.

    Its folder is `data_root`, else PERCEPTION_<NAME>, else data/<name>.

    Raises:
        UserError: an unknown set, or files that are not laid out as it says.
    """

    metainfo: Mapping[str, Any] = {"classes": CLASSES, "palette": [list(c) for c in PALETTE]}

    def __init__(
        self,
        domain: str,  # which set
        split: str = "val",  # train or val; gta has none
        data_root: str | Path | None = None,
    ) -> None:
        self.layout = street_set(domain)
        super().__init__(street_images(domain, street_root(domain, data_root), split))
        self.label_map = label_table(self.layout)

    def about(self, index: int) -> dict[str, Any]:
        """As of every labelled file, and `test_scale`, which FitTestScale reads."""
        return {**super().about(index), "test_scale": self.layout.test_scale}


class CamVid(SegmentationFolder):
    """A source of CamVid, 11 classes."""

    metainfo: Mapping[str, Any] = {"classes": CAMVID_CLASSES, "palette": [list(c) for c in CAMVID_PALETTE]}


def street_set(name: str) -> StreetSet:
    """A set by its name. Raises UserError for an unknown one."""
    if name not in STREET_SETS:
        raise UserError(f"there is no street scene set {name!r}; choose one of {', '.join(STREET_SETS)}")
    return STREET_SETS[name]


def street_root(name: str, data_root: str | Path | None = None) -> Path:
    """The folder of a set: `data_root`, else PERCEPTION_<NAME>, else data/<name>; gta_raw is in that of gta."""
    place = name.removesuffix("_raw")
    return Path(getenv(f"PERCEPTION_{place.upper()}", f"data/{place}") if data_root is None else data_root)


def label_table(layout: StreetSet) -> dict[int, int] | None:
    """Every id 0..255 of a set's label files -> train id; None where they are train ids already."""
    if layout.train_ids is None:
        return None
    return {old: layout.train_ids.get(old, IGNORE) for old in range(256)}


def street_images(name: str, root: str | Path, split: str) -> list[LabelledImage]:
    """Pairs of image and label map, sorted; the stem is the path that the two share.

    Raises:
        UserError: a folder is missing or empty, or an image or a label map stands alone.
    """
    layout = street_set(name)
    archive = _ARCHIVE_SPLITS.get((name, split), split)
    if not (Path(root) / split).is_dir() and (Path(root) / archive).is_dir():
        split = archive
    folders = [Path(root) / place.format(split=split) for place in (layout.images, layout.labels)]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist; expected the set {name!r} in {root} with "
                f"{layout.images.format(split=split)} and {layout.labels.format(split=split)}"
            )
    inner = split if name in _CONDITIONS else None
    images, labels = (
        _by_stem(folder, suffix, inner)
        for folder, suffix in zip(folders, (layout.image_suffix, layout.label_suffix), strict=True)
    )
    if not images:
        raise UserError(f"{folders[0]} holds no *{layout.image_suffix} of the split {split!r}; check the data root")
    if alone := sorted(set(images) ^ set(labels)):
        raise UserError(
            f"the set {name!r} in {root} has {len(alone)} images or label maps without partner, first {alone[0]}; "
            f"every STEM{layout.image_suffix} needs STEM{layout.label_suffix}"
        )
    return [LabelledImage(stem, images[stem], labels[stem]) for stem in sorted(images)]


def gta_train_ids(labels: np.ndarray) -> np.ndarray:
    """Ids as GTA's own label files have them -> Cityscapes train ids, 255 for all that are not evaluated."""
    table = np.full(256, IGNORE, np.uint8)
    table[list(GTA_TRAIN_ID)] = list(GTA_TRAIN_ID.values())
    return table[labels]


def gta_images(root: str | Path) -> list[LabelledImage]:
    """All frames of images/<stem>.png with their label maps in train ids, sorted by stem.

    Raises:
        UserError: a folder is missing or empty, or an image and a label map stand alone, or two images
            have one stem.
    """
    images, labels = Path(root) / "images", Path(root) / "labels"
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; expected images/ and labels/ in {root}")
    pictures = by_stem(images, IMAGE_SUFFIXES)
    maps = {p.name.removesuffix(GTA_LABEL_SUFFIX): p for p in labels.iterdir() if p.name.endswith(GTA_LABEL_SUFFIX)}
    if alone := sorted(set(pictures) ^ set(maps)):
        raise UserError(
            f"{root} has {len(alone)} stems with an image or a label map alone: {', '.join(alone[:3])}; "
            f"every images/<stem>.png needs labels/<stem>{GTA_LABEL_SUFFIX} (convert the labels with `gta_train_ids`)"
        )
    if not pictures:
        raise UserError(f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)}); check the data root")
    return [LabelledImage(stem, pictures[stem], maps[stem]) for stem in sorted(pictures)]


def _by_stem(folder: Path, suffix: str, split: str | None) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{suffix}")}
    return {
        key.removesuffix(suffix): path for key, path in found.items() if split is None or key.split("/")[1:2] == [split]
    }
