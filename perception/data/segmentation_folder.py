"""Index of a folder of images and label maps: images/<split>/<stem>.jpg beside annotations/<split>/<stem>.png."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from perception.data.images import read_image
from perception.data.picture_files import DAMAGED, LABEL_FORMATS, open_picture
from perception.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIX = ".png"


@dataclass(frozen=True)
class LabelledImage:
    """One pair of the index."""

    stem: str
    image: Path
    labels: Path


class LabelledFiles:
    """A source of image files with label maps."""

    metainfo: Mapping[str, Any] = {}
    label_map: Mapping[int, int] | None = None  # id in the files -> id in training
    reduce_zero_label = False  # id 0 means ignore, the classes start at 1

    def __init__(self, pairs: Sequence[LabelledImage]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def about(self, index: int) -> dict[str, Any]:
        """Both files, and what the ids in the label map mean where they are no train ids."""
        pair = self.pairs[index]
        about: dict[str, Any] = {"img_path": str(pair.image), "seg_map_path": str(pair.labels)}
        if self.label_map is not None:
            about["label_map"] = self.label_map
        return {**about, "reduce_zero_label": True} if self.reduce_zero_label else about

    def record(self, index: int) -> dict[str, Any]:
        """`image` and `labels` (train ids, 255 ignored). UserError: a bad file, or maps of different sizes."""
        pair = self.pairs[index]
        image = np.asarray(read_image(pair.image))
        labels = train_ids(read_labels(pair.labels), self.label_map, self.reduce_zero_label)
        check_labels(labels, image.shape[:2], len(self.metainfo["classes"]), 255, str(pair.labels))
        return {"image": image, "labels": labels}


class SegmentationFolder(LabelledFiles):
    """Images and label maps in images/<split>/<stem>.jpg and annotations/<split>/<stem>.png.

    Raises:
        UserError: a missing folder, an empty split, or files without their partner.
    """

    def __init__(
        self,
        data_root: str | Path,
        split: str,  # sub-folder of images/ and annotations/
        metainfo: Mapping[str, Any] | None = None,  # classes, palette
        reduce_zero_label: bool = False,  # id 0 means ignore, the classes start at 1
    ) -> None:
        super().__init__(labelled_images(data_root, split))
        self.metainfo = metainfo or self.metainfo
        self.reduce_zero_label = reduce_zero_label


def labelled_images(root: str | Path, split: str) -> list[LabelledImage]:
    """All pairs of one split, sorted by stem.

    Args:
        root: folder with `images/<split>` and `annotations/<split>`.
        split: for example "train", "val" or "test".
    Raises:
        UserError: a folder is missing, the split is empty, an image and a label map stand alone, or two images have
            one stem.
    """
    images = by_stem(_split_folder(Path(root), "images", split), IMAGE_SUFFIXES)
    labels = by_stem(_split_folder(Path(root), "annotations", split), (LABEL_SUFFIX,))
    _check_complete(images, labels, f"{root}/annotations/{split}", "label map")
    _check_complete(labels, images, f"{root}/images/{split}", "image")
    if not images:
        raise UserError(f"{root}/images/{split} holds no image ({', '.join(IMAGE_SUFFIXES)}); check the data root")
    return [LabelledImage(stem, images[stem], labels[stem]) for stem in sorted(images)]


def read_labels(path: str | Path) -> np.ndarray:
    """A label map as uint8 [H, W], one class id per pixel (palette indices are ids).

    Raises:
        UserError: the file is missing, no PNG, TIFF or BMP, has colour channels instead of ids, or a value that is no
            class id: a fraction, below 0 or above 255.
    """
    name = f"the label map {path}"
    try:
        with open_picture(path, "the label map ", LABEL_FORMATS) as image:
            labels = _as_stored(image, name)
    except UnidentifiedImageError as error:
        known = ", ".join(LABEL_FORMATS)
        raise UserError(f"{name} cannot be read as {known}; replace the file, or save it as PNG") from error
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{name} cannot be read ({error}); replace the file") from error
    if labels.ndim != 2:
        raise UserError(f"{name} has mode {image.mode} and shape {labels.shape}; expected one 8-bit class id per pixel")
    return exact_ids(labels, name)


def exact_ids(labels: np.ndarray, name: str = "the label map") -> np.ndarray:
    """The same values as uint8. Raises UserError where one is a fraction, negative, above 255 or no number."""
    if labels.dtype == np.uint8:
        return labels
    if labels.dtype.kind not in "buif":
        raise UserError(f"{name} holds {labels.dtype}; expected one 8-bit class id per pixel")
    with np.errstate(invalid="ignore"):
        ids = labels.astype(np.uint8)
    wrong = labels[ids != labels]
    if wrong.size:
        shown = ", ".join(f"{value:g}" for value in np.unique(wrong)[:4])
        raise UserError(
            f"{name} holds {labels.dtype} values such as {shown}; every pixel must be a whole class id from 0 to 254, "
            "or 255 to be ignored, so save the map with 8 bits"
        )
    return ids


def _as_stored(image: Image.Image, name: str) -> np.ndarray:
    """Pixels with the values in the file. Pillow takes signed bytes of a TIFF for unsigned ones, and scales 2 and 4
    bits of grey up to 0..255."""
    tiles = getattr(image, "tile", ())  # of a file whose pixels are not decoded yet
    packing = tiles[0].args if tiles else ""
    packing = packing if isinstance(packing, str) else str(packing[0])
    if packing.startswith(("L;2", "L;4")):
        raise UserError(f"{name} has {packing[2]} bits of grey per pixel; save it with 8 bits, one class id per pixel")
    signed = image.mode == "L" and getattr(image, "tag_v2", {}).get(ExifTags.Base.SampleFormat) in (2, (2,))
    pixels = np.array(image)
    return pixels.view(np.int8) if signed else pixels


def train_ids(labels: np.ndarray, label_map: Mapping[int, int] | None, reduce_zero: bool = False) -> np.ndarray:
    """Ids of a file (uint8) -> ids of training: shifted by one where 0 means ignore, then looked up in `label_map`."""
    if reduce_zero:
        labels = labels - np.uint8(1)  # 0 wraps to 255; 255 becomes 254 and is put back
        labels[labels == 254] = 255
    if not label_map:
        return labels
    table = np.arange(256, dtype=np.uint8)
    table[list(label_map)] = list(label_map.values())
    return table[labels]


def check_labels(labels: np.ndarray, image_size: tuple[int, int], num_classes: int, ignore: int, name: str) -> None:
    """Refuse a label map of another size than its image (height, width) or with ids outside the classes.

    Raises:
        UserError: naming the map, the sizes or ids found, and what was expected.
    """
    if labels.shape != tuple(image_size):
        raise UserError(
            f"the label map {name} is {labels.shape[1]} x {labels.shape[0]} pixels but its image"
            f" {image_size[1]} x {image_size[0]}; both must have the same size"
        )
    wrong = [int(v) for v in np.unique(labels) if v >= num_classes and v != ignore]
    if wrong:
        raise UserError(
            f"the label map {name} holds class ids {wrong[:8]}, but there are {num_classes} classes:"
            f" use 0..{num_classes - 1}, and {ignore} for pixels to ignore"
        )


def _split_folder(root: Path, kind: str, split: str) -> Path:
    if not root.is_dir():
        raise UserError(
            f"the data root {root} does not exist; download the data set or name its folder with --data-root"
        )
    if not (root / kind).is_dir():
        raise UserError(f"the data root {root} has no folder {kind!r}; expected {kind}/{split} in it")
    if not (root / kind / split).is_dir():
        found = ", ".join(sorted(p.name for p in (root / kind).iterdir() if p.is_dir())) or "none"
        raise UserError(f"{root / kind} has no split {split!r}; there are: {found}")
    return root / kind / split


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files with one of these suffixes by their stem. UserError where two have the same."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes):
        if path.stem in found:
            raise UserError(f"{folder} has {found[path.stem].name} and {path.name} of one stem; keep one of the two")
        found[path.stem] = path
    return found


def _check_complete(have: Iterable[str], partners: Iterable[str], where: str, what: str) -> None:
    alone = sorted(set(have) - set(partners))
    if alone:
        names = ", ".join(alone[:3]) + (" ..." if len(alone) > 3 else "")
        raise UserError(f"{where} has no {what} for {len(alone)} stem(s): {names}; add or remove the partner files")
