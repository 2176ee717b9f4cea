"""The jobs of `perception score`: labelled images in; scores, losses, recalled objects and filtered labels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perception.curation.consistency import Consistency, ConsistencyPredictor, filtered_labels
from perception.curation.pairs import FilePair, Labelled
from perception.data.documents import conforms
from perception.data.files import fitting
from perception.data.images import content_hash
from perception.data.pictures import png_bytes
from perception.generation.labels import IGNORE, class_counts
from perception.generation.samples import check_listed
from perception.jobs.contract import Outcome, fingerprint
from perception.jobs.items import Item
from perception.metrics.component_recall import ComponentRecall

FILTERED_PLACE = "labels_filtered/{}_labelTrainIds.png"  # below OUT


JUDGEMENT = {  # of every labelled image
    "labels_hash": (str, None),
    "pixel_accuracy": float,
    "mean_iou": float,
    "loss": float,
    "class_loss": {str: {"sum": float, "pixels": int, "mean": float}},
    "objects": {str: object},
}
SCORE = JUDGEMENT | {"source": str, "ignored_share": float, "class_pixels": {str: int}, "hashes": {str: str}}


class LabelledImage(NamedTuple):
    """One labelled image, read."""

    pair: Labelled
    image: Image.Image
    labels: np.ndarray
    labels_hash: str | None


def is_judgement(
    record: Mapping[str, Any], classes: Sequence[str], objects: Sequence[str], areas: Sequence[int], shape: Any
) -> bool:
    """Whether the line of a finished image has what a job of a head writes."""
    counts = [int] * (len(areas) + 1)
    recall = {"areas": [int], "classes": {name: {"recalled": counts, "components": counts} for name in objects}}
    return (
        conforms(record, shape)
        and set(record["class_loss"]) <= set(classes)
        and conforms(record["objects"], recall)
        and record["objects"]["areas"] == list(areas)
        and set(record["objects"]["classes"]) == set(objects)
    )


class HeadJob(ABC):
    """Job predictor of a trained head on labelled images, one by one, so that a result has no neighbours."""

    evaluations = 1
    shape: Mapping[str, Any] = JUDGEMENT

    def __init__(
        self,
        predictor: ConsistencyPredictor,
        pairs: Sequence[Labelled],
        objects: Mapping[str, int],  # class name -> id, of what is recalled by size
        areas: Sequence[int],  # bounds of the size buckets, pixels
        settings: Mapping[str, Any],  # everything else that changes a result
    ) -> None:
        self.predictor = predictor
        self.device = predictor.device
        self.pairs = {pair.item.id: pair for pair in pairs}
        self.objects, self.areas = objects, areas
        self.options = {**settings, "objects": list(objects), "areas": list(areas)}
        self.fingerprint = fingerprint(self.options)
        self.revisions: dict[str, str] = {}  # commits of what came from the hub

    def prepare(self, item: Item) -> LabelledImage:
        """Read image and label map; UserError where the id cannot stand in the lists of accepted and rejected ones."""
        check_listed(item.id)
        pair = self.pairs[item.id]
        return LabelledImage(pair, *pair.read(len(self.predictor.classes)), pair.labels_hash())

    def __call__(self, batch: Sequence[LabelledImage]) -> list[Outcome]:
        """Judge images."""
        return [self._one(sample) for sample in batch]

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes, about its classes and objects."""
        return is_judgement(record, self.predictor.classes, list(self.objects), self.areas, self.shape)

    def still_valid(self, record: dict[str, Any]) -> bool:
        """False where the label map has changed."""
        return record["labels_hash"] == self.pairs[record["id"]].labels_hash()

    def _one(self, sample: LabelledImage) -> Outcome:
        found = self.predictor(sample.image, sample.labels)
        recall = ComponentRecall.of(sample.labels, found.prediction, self.objects, self.areas)
        record = {
            "labels_hash": sample.labels_hash,
            "size": list(sample.labels.shape),
            "pixel_accuracy": round(found.pixel_accuracy, 6),
            "mean_iou": round(found.mean_iou, 6),
            "loss": round(found.class_loss.mean, 6),
            "class_loss": found.class_loss.to_json(self.predictor.classes),
            "objects": recall.to_json(),
        }
        more, files = self._further(sample, found)
        return Outcome(record | more, files)

    @abstractmethod
    def _further(self, sample: LabelledImage, found: Consistency) -> tuple[dict[str, Any], dict[str, bytes]]:
        """More fields of the record, and files."""


class ReferenceFiles(HeadJob):
    """Real images: records alone."""

    def _further(self, sample: LabelledImage, found: Consistency) -> tuple[dict[str, Any], dict[str, bytes]]:
        return {}, {}


class ScoreJob(HeadJob):
    """Samples: labels_filtered/ID_labelTrainIds.png too, where there are limits. The record holds what is kept."""

    shape = SCORE

    def __init__(
        self,
        predictor: ConsistencyPredictor,
        pairs: Sequence[FilePair],
        objects: Mapping[str, int],
        areas: Sequence[int],
        settings: Mapping[str, Any],
        limits: np.ndarray | None = None,  # largest loss of a kept pixel by class id [K]; None: no filter
    ) -> None:
        super().__init__(predictor, pairs, objects, areas, settings)
        self.limits = limits

    def _further(self, sample: LabelledImage, found: Consistency) -> tuple[dict[str, Any], dict[str, bytes]]:
        assert isinstance(sample.pair, FilePair)
        kept, files = sample.labels, {}
        if self.limits is not None:
            kept = filtered_labels(sample.labels, found.loss, self.limits)
            files = {fitting(FILTERED_PLACE.format(sample.pair.id)): png_bytes(kept)}
        labelled = int((sample.labels != IGNORE).sum())
        counts = class_counts(kept, len(self.predictor.classes))
        record = {
            "source": sample.pair.source,
            "ignored_share": round(1 - sum(counts.values()) / labelled, 6),  # of the labelled pixels
            "class_pixels": {str(label): count for label, count in counts.items()},  # kept
            "hashes": {path: content_hash(content) for path, content in files.items()},
        }
        return record, files
