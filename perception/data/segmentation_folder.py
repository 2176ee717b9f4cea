"""Index of a folder of images and label maps: images/<split>/<stem>.jpg beside annotations/<split>/<stem>.png."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIX = ".png"
DAMAGED = (  # what Pillow raises, its AVIF decoder a RuntimeError
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class LabelledImage:
    """One pair of the index."""

    stem: str
    image: Path
    labels: Path


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
        UserError: the file is missing, no image, or has colour channels instead of ids.
    """
    try:
        with Image.open(path) as image:
            labels = np.array(image)
    except FileNotFoundError as error:
        raise UserError(f"the label map {path} does not exist; check the path") from error
    except DAMAGED as error:
        raise UserError(f"the label map {path} cannot be read ({error}); replace the file") from error
    if labels.ndim != 2 or labels.min() < 0 or labels.max() > 255:
        raise UserError(
            f"the label map {path} has mode {image.mode} and shape {labels.shape};"
            " expected one 8-bit class id per pixel"
        )
    return labels.astype(np.uint8)


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
