"""The segment jobs: image files in; label pictures or masks, overlays, attention maps and manifest records out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perception.commands.results import Picture, fingerprint, picture_name, read_picture
from perception.data.overlay import overlay_labels
from perception.data.pictures import overlay_heat, png_bytes
from perception.engine.items import Item
from perception.engine.jobs import Outcome
from perception.segmentation.predictor import SemanticPredictor

_NO_LABEL = 255  # no class has this id
_MOST_CLASSES = 4  # named in a printed line


class SemanticFiles:
    """Job predictor of a semantic model: labels/ID (palette PNG), overlays/ID and maps/ID/CLASS.png below OUT.

    The record holds `size` (height, width) and `areas` (class name -> share of the pixels). Images go through the
    network one by one, so a result does not depend on its neighbours.
    """

    evaluations = 1

    def __init__(
        self,
        predictor: SemanticPredictor,
        palette: Sequence[Sequence[int]],  # RGB by class id
        classes: Sequence[str],  # to measure and draw; empty: all
        settings: Mapping[str, Any],  # everything else that changes a result; `maps` and `overlay` are read
    ) -> None:
        self.predictor = predictor
        self.device = predictor.device
        self.palette = palette
        self.names = list(classes) or predictor.classes
        self.shown = [predictor.classes.index(name) for name in self.names]
        self.options = {**settings, "classes": list(classes)}
        self.fingerprint = fingerprint(self.options)

    def prepare(self, item: Item) -> Picture:
        """Read one file."""
        return read_picture(item)

    def __call__(self, batch: Sequence[Picture]) -> list[Outcome]:
        """Segment pictures."""
        return [self._one(picture) for picture in batch]

    def _one(self, picture: Picture) -> Outcome:
        result = self.predictor(picture.image)
        areas = {name: round(area, 6) for name, area in result.areas.items() if name in self.names or area != area}
        name = picture_name(picture.id)
        files = {f"labels/{name}": png_bytes(result.labels, self.palette)}
        if self.options["overlay"]:
            pixels = np.asarray(picture.image)
            labels = np.where(np.isin(result.labels, self.shown), result.labels, _NO_LABEL)
            files[f"overlays/{name}"] = png_bytes(overlay_labels(pixels, labels, self.palette))
        if self.options["maps"]:
            files |= self._maps(picture)
        return Outcome({"size": list(result.labels.shape), "areas": areas}, files)

    def _maps(self, picture: Picture) -> dict[str, bytes]:
        pixels, maps = np.asarray(picture.image), self.predictor.maps(picture.image)
        return {
            f"maps/{picture.id}/{slug(name)}.png": png_bytes(overlay_heat(pixels, maps[name])) for name in self.names
        }


def semantic_line(record: Mapping[str, Any]) -> str:
    """'road 31 %, sky 20 %, ...' of a record."""
    largest = sorted(record["areas"].items(), key=lambda pair: -pair[1])
    named = [f"{name} {100 * area:.0f} %" for name, area in largest[:_MOST_CLASSES]]
    return ", ".join(named + (["..."] if len(largest) > _MOST_CLASSES else [])) or "none of these classes"


def slug(text: str) -> str:
    """A short file name of a text: lower case, letters and digits, the rest as hyphens."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].rstrip("-") or "text"
