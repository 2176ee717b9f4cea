"""The GTA 5 set in the layout of the segmentation literature: images/<stem>.png, labels/<stem>_labelTrainIds.png.

Richter et al., Playing for data (ECCV 2016); for research use. 24,966 frames of 1914 x 1052 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.data.segmentation_folder import IMAGE_SUFFIXES, LabelledImage, by_stem
from perception.errors import UserError

LABEL_SUFFIX = "_labelTrainIds.png"
TRAIN_ID = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip  # id in the files of the data set -> Cityscapes train id


def train_ids(labels: np.ndarray) -> np.ndarray:
    """Ids as the data set's own label files have them -> Cityscapes train ids, 255 for all that are not evaluated."""
    table = np.full(256, 255, np.uint8)
    table[list(TRAIN_ID)] = list(TRAIN_ID.values())
    return table[labels]


def gta_images(root: str | Path) -> list[LabelledImage]:
    """All frames with their label maps in train ids, sorted by stem.

    Raises:
        UserError: a folder is missing or empty, or an image and a label map stand alone, or two images
            have one stem.
    """
    images, labels = Path(root) / "images", Path(root) / "labels"
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; expected images/ and labels/ in {root}")
    pictures = by_stem(images, IMAGE_SUFFIXES)
    maps = {p.name.removesuffix(LABEL_SUFFIX): p for p in labels.iterdir() if p.name.endswith(LABEL_SUFFIX)}
    if alone := sorted(set(pictures) ^ set(maps)):
        raise UserError(
            f"{root} has {len(alone)} stems with an image or a label map alone: {', '.join(alone[:3])}; "
            f"every images/<stem>.png needs labels/<stem>{LABEL_SUFFIX} (convert the labels with `train_ids`)"
        )
    if not pictures:
        raise UserError(f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)}); check the data root")
    return [LabelledImage(stem, pictures[stem], maps[stem]) for stem in sorted(pictures)]
