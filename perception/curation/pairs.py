"""Labelled images of `perception score`: pairs of files, or scenes of the miniature world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from perception.data.files import file_hash
from perception.data.images import read_image
from perception.data.segmentation_folder import check_labels, read_labels
from perception.errors import UserError
from perception.generation.finished_set import check_samples, finished_samples, set_classes
from perception.generation.labels import IGNORE
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE, label_files, sample_stem
from perception.jobs.items import Item, image_items

_IMAGE_END = "_leftImg8bit"  # of Cityscapes' files; left out of ids


class Labelled(Protocol):
    """One image with its label map."""

    @property
    def item(self) -> Item:
        """Its unit of work."""

    def read(self, classes: int) -> tuple[Image.Image, np.ndarray]:
        """RGB image, label map uint8 [H, W] of ids below `classes` and 255. Raises UserError."""

    def labels_hash(self) -> str | None:
        """SHA-256 of the label map's file, which is not the item's; None: there is no file."""


@dataclass(frozen=True)
class FilePair:
    """An image file and the file of its label map."""

    id: str  # path below the images' folder without its suffix
    image: Path
    labels: Path
    source: str  # the label map that hardness is counted for
    provenance: Mapping[str, Any] = field(default_factory=dict)  # its manifest line, of a generated set

    @property
    def item(self) -> Item:
        """Its unit of work."""
        return Item(self.id, self.image)

    def read(self, classes: int) -> tuple[Image.Image, np.ndarray]:
        """Image and label map. Raises UserError where they are damaged, do not fit, or nothing is labelled."""
        image, labels = read_image(self.image), read_labels(self.labels)
        check_labels(labels, (image.height, image.width), classes, IGNORE, self.labels.name)
        if (labels == IGNORE).all():
            raise UserError(f"the label map {self.labels.name} labels no pixel; leave the sample out")
        return image, labels

    def labels_hash(self) -> str | None:
        """SHA-256 of the label map's file."""
        return file_hash(self.labels)


@dataclass(frozen=True)
class WorldScene:
    """A scene of the miniature world's validation stream, in clear weather."""

    index: int
    size: tuple[int, int]  # height, width in pixels

    @property
    def item(self) -> Item:
        """Its unit of work."""
        return Item(f"world-{self.size[0]}x{self.size[1]}-{self.index:06d}")

    def read(self, classes: int) -> tuple[Image.Image, np.ndarray]:
        """Image and label map."""
        from perception.data.world import VAL_SEED, render_scene

        scene = render_scene(VAL_SEED, self.index, "clear", self.size)
        return Image.fromarray(scene.image), scene.labels

    def labels_hash(self) -> str | None:
        """No file."""
        return None


def file_pairs(images: Path, labels: Path) -> list[FilePair]:
    """Images and label maps of the same path but for suffixes (_leftImg8bit, _gtFine, _labelTrainIds), sorted.

    Raises:
        UserError: a folder is missing or empty, an image or a label map stands alone, or two share a name.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; expected one of images and one of label maps")
    pictures = _by_id({item.id: item.path for item in image_items([images]) if item.path})
    maps = _by_id(label_files(labels))
    if alone := sorted(set(pictures) ^ set(maps)):
        raise UserError(
            f"{len(alone)} images or label maps have no partner in {images} and {labels}, such as {alone[0]}; "
            "both need the same names, ID.png and ID.png or ID_labelTrainIds.png"
        )
    return [
        FilePair(key, pictures[key], maps[key], maps[key].relative_to(labels).as_posix()) for key in sorted(pictures)
    ]


def set_pairs(root: Path) -> list[FilePair]:
    """The finished samples of a generated set, or the pairs of any folder with images/ and labels/ (or annotations/).

    Raises:
        UserError: no such folder, and what `finished_samples` or `file_pairs` raises.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name a data set of `perception generate`")
    if not (root / "job.json").is_file():
        kinds = [root / kind for kind in ("labels", "annotations") if (root / kind).is_dir()]
        return file_pairs(root / "images", kinds[0] if kinds else root / "labels")
    records = finished_samples(root)
    check_samples(root, records, len(set_classes(root)))
    return [_generated(root, record) for record in records]


def _generated(root: Path, record: Mapping[str, Any]) -> FilePair:
    key = record["id"]
    return FilePair(
        key, root / IMAGE_PLACE.format(key), root / LABEL_PLACE.format(key), record["source"], provenance=record
    )


def _by_id(paths: Mapping[str, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in paths.items():
        key = sample_stem(name).removesuffix(_IMAGE_END)
        if key in found:
            raise UserError(f"{found[key]} and {path} would be one sample, {key}; rename one of them")
        found[key] = path
    return found
