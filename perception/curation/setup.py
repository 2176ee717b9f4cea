"""Head, images and options that the two jobs of `perception score` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perception.curation.consistency import ConsistencyPredictor, loss_limits
from perception.curation.job import ReferenceFiles, ScoreJob
from perception.curation.pairs import FilePair, Labelled
from perception.curation.reference import Reference
from perception.jobs.items import Item


@dataclass(frozen=True)
class ScoreOptions:
    """What is filtered, accepted and counted."""

    objects: Mapping[str, int]  # class name -> id, of what is recalled by size
    areas: Sequence[int]  # bounds of the size buckets, pixels, ascending
    alpha: float  # a pixel above this many times its class's mean loss is ignored
    metric: str  # "mean_iou" or "pixel_accuracy": the score of a sample
    min_score: float  # samples below are rejected
    max_count: int  # samples of the hardest label map
    count_by: str  # rule of `sample_counts`


@dataclass(frozen=True)
class Head:
    """A trained semantic head, not yet loaded."""

    name: str
    classes: list[str]  # names by id
    identity: Mapping[str, Any]  # `model` and `size` that losses depend on
    load: Callable[[], tuple[ConsistencyPredictor, dict[str, str]]]  # with the commits of what came from the hub


@dataclass(frozen=True)
class Setup:
    """Everything the jobs need but the loaded head, which both of them share."""

    head: Head
    folder: Path  # of the labelled set
    pairs: Sequence[FilePair]
    reference: Sequence[Labelled]  # empty where the losses of real images are known, or not wanted
    known: Reference | None  # losses that were measured before
    options: ScoreOptions

    @property
    def items(self) -> list[Item]:
        """One per sample."""
        return [pair.item for pair in self.pairs]

    def measuring(self) -> ReferenceFiles:
        """The predictor of the reference job."""
        predictor, revisions = self._loaded
        job = ReferenceFiles(predictor, self.reference, self.options.objects, self.options.areas, self.head.identity)
        job.revisions = revisions
        return job

    def scoring(self, reference: Reference | None) -> ScoreJob:
        """The predictor of the score job; without a reference nothing is filtered."""
        predictor, revisions = self._loaded
        settings, limits = {**self.head.identity, "alpha": None, "class_loss": None}, None
        if reference is not None:
            limits = loss_limits(reference.class_loss, self.options.alpha)
            settings |= {"alpha": self.options.alpha, "class_loss": reference.digest(self.head.classes)}
        job = ScoreJob(predictor, self.pairs, self.options.objects, self.options.areas, settings, limits)
        job.revisions = revisions
        return job

    @cached_property
    def _loaded(self) -> tuple[ConsistencyPredictor, dict[str, str]]:
        return self.head.load()
