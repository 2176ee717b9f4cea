"""The segment jobs: image files in; label pictures or masks, overlays, attention maps and manifest records out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perception.backbones.typicality import TypicalityMeter
from perception.data.documents import conforms
from perception.data.pictures import distinct_colour, overlay_heat, overlay_labels, png_bytes
from perception.jobs.contract import Outcome, fingerprint
from perception.jobs.images import Picture, marks, picture_name, read_picture
from perception.jobs.items import Item
from perception.segmentation.predictor import ReferringPredictor, SemanticPredictor

_NO_LABEL = 255  # no class has this id
_MOST_CLASSES = 4  # named in a printed line
SEMANTIC_RECORD = {"size": [int, int], "areas": {str: float}}
REFERRING_RECORD = {"size": [int, int], "found": [{"text": str, "area": float, "score": (float, None), "mask": str}]}


class SegmentJob:
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
        meter: TypicalityMeter | None = None,  # marks images that are unlike those of the training
    ) -> None:
        self.predictor = predictor
        self.meter = meter
        self.device = predictor.device
        self.palette = palette
        self.names = list(classes) or predictor.classes
        self.shown = [predictor.classes.index(name) for name in self.names]
        self.options = {**settings, "classes": list(classes)}
        self.fingerprint = fingerprint(self.options)
        self.revisions: dict[str, str] = {}  # commits of what came from the hub

    def prepare(self, item: Item) -> Picture:
        """Read one file."""
        return read_picture(item)

    def __call__(self, batch: Sequence[Picture]) -> list[Outcome]:
        """Segment pictures."""
        return [self._one(picture) for picture in batch]

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes."""
        return conforms(record, SEMANTIC_RECORD)

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
        record = {"size": list(result.labels.shape), "areas": areas, **marks(self.meter, picture.image)}
        return Outcome(record, files)

    def _maps(self, picture: Picture) -> dict[str, bytes]:
        pixels, maps = np.asarray(picture.image), self.predictor.maps(picture.image)
        return {
            f"maps/{picture.id}/{slug(name)}.png": png_bytes(overlay_heat(pixels, maps[name])) for name in self.names
        }


class FindJob:
    """Job predictor of a referring model: masks/ID/N-TEXT.png (0 or 255), the same of overlays, and below maps a
    folder per sentence with N-WORD.png.

    The record holds `size` (height, width) and `found`: per sentence `text`, `area` (share of the pixels), `score`
    (mean probability over the mask; null: nothing was found) and `mask` (its file).
    """

    def __init__(
        self,
        predictor: ReferringPredictor,
        texts: Sequence[str],  # the same for every image
        settings: Mapping[str, Any],  # everything else that changes a result; `maps` and `overlay` are read
        meter: TypicalityMeter | None = None,  # marks images that are unlike those of the training
    ) -> None:
        predictor.check(texts)
        self.predictor = predictor
        self.meter = meter
        self.device = predictor.device
        self.texts = list(texts)
        self.names = [f"{number}-{slug(text)}" for number, text in enumerate(texts)]
        self.evaluations = len(texts) * (2 if settings["maps"] else 1)
        self.options = {**settings, "text": self.texts}
        self.fingerprint = fingerprint(self.options)
        self.revisions: dict[str, str] = {}  # commits of what came from the hub

    def prepare(self, item: Item) -> Picture:
        """Read one file."""
        return read_picture(item)

    def __call__(self, batch: Sequence[Picture]) -> list[Outcome]:
        """Find every sentence in pictures."""
        return [self._one(picture) for picture in batch]

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes."""
        return conforms(record, REFERRING_RECORD)

    def _one(self, picture: Picture) -> Outcome:
        pixels, files, found = np.asarray(picture.image), {}, []
        for number, result in enumerate(self.predictor(picture.image, self.texts)):
            name = f"{picture.id}/{self.names[number]}.png"
            files[f"masks/{name}"] = png_bytes(result.mask.astype(np.uint8) * 255)
            if self.options["overlay"]:
                labels = np.where(result.mask, 0, _NO_LABEL)
                files[f"overlays/{name}"] = png_bytes(overlay_labels(pixels, labels, [distinct_colour(number)]))
            score = None if result.score is None else round(result.score, 4)
            entry = {"text": result.text, "area": round(result.area, 6), "score": score, "mask": f"masks/{name}"}
            found.append(entry)
        if self.options["maps"]:
            files |= self._maps(picture)
        record = {"size": list(pixels.shape[:2]), "found": found, **marks(self.meter, picture.image)}
        return Outcome(record, files)

    def _maps(self, picture: Picture) -> dict[str, bytes]:
        files, pixels = {}, np.asarray(picture.image)
        for name, text in zip(self.names, self.texts, strict=True):
            for number, (word, values) in enumerate(self.predictor.maps(picture.image, text)):
                path = f"maps/{picture.id}/{name}/{number}-{slug(word)}.png"
                files[path] = png_bytes(overlay_heat(pixels, values))
        return files


def referring_line(record: Mapping[str, Any]) -> str:
    """'"the red car" 4.2 % (score 0.93), ...' of a record."""
    return ", ".join(
        f'"{one["text"]}" {100 * one["area"]:.1f} % (score {one["score"]:.2f})'
        if one["score"] is not None
        else f'"{one["text"]}" not found'
        for one in record["found"]
    )


def semantic_line(record: Mapping[str, Any]) -> str:
    """'road 31 %, sky 20 %, ...' of a record."""
    largest = sorted(record["areas"].items(), key=lambda pair: -pair[1])
    named = [f"{name} {100 * area:.0f} %" for name, area in largest[:_MOST_CLASSES]]
    return ", ".join(named + (["..."] if len(largest) > _MOST_CLASSES else [])) or "none of these classes"


def slug(text: str) -> str:
    """A short file name of a text: lower case, letters and digits, the rest as hyphens."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].rstrip("-") or "text"
