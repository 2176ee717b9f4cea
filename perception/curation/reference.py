"""The losses of real images by class: measured by a job of its own below OUT/reference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.commands.asked import request_of
from perception.commands.results import fingerprint
from perception.commands.score_job import JUDGEMENT, is_judgement
from perception.data.documents import conforms
from perception.data.inputs import read_json
from perception.engine.jobs import JobOptions
from perception.engine.manifest import DONE, read_manifest, strange_line
from perception.engine.runner import run_job
from perception.errors import UserError
from perception.metrics.class_loss import ClassLoss
from perception.metrics.component_recall import ComponentRecall

if TYPE_CHECKING:
    from perception.commands.score_inputs import Setup

FOLDER, FILE = "reference", "class_loss.json"
_COUNTS = {"recalled": [int], "components": [int]}
_REFERENCE = {
    "head": {str: object},
    "images": int,
    "class_loss": {str: {"sum": float, "pixels": int}},
    "objects": {"areas": [int], "classes": {str: _COUNTS}},
}


@dataclass(frozen=True)
class Reference:
    """What a head does on real, labelled images."""

    class_loss: ClassLoss
    objects: ComponentRecall
    images: int
    head: Mapping[str, Any]  # `model` and `size` that the losses depend on

    def digest(self, names: Sequence[str]) -> str:
        """Names the losses: a part of the score job's fingerprint."""
        return fingerprint(self.class_loss.to_json(names))

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": 1,
            "head": dict(self.head),
            "images": self.images,
            "class_loss": self.class_loss.to_json(names),
            "objects": self.objects.to_json(),
        }


def read_reference(path: Path, names: Sequence[str]) -> Reference:
    """A class_loss.json. Raises UserError where it is broken or of other classes than `names`."""
    document = read_json(path, "the losses ")
    try:
        if not conforms(document, _REFERENCE):
            raise ValueError("it has other contents than were written")
        return Reference(
            ClassLoss.from_json(document["class_loss"], names),
            ComponentRecall.from_json(document["objects"]),
            document["images"],
            document["head"],
        )
    except ValueError as error:
        raise UserError(
            f"{path} is no class_loss.json for this head ({error}); measure the losses with --reference"
        ) from error


def class_loss_of(setup: Setup, options: JobOptions) -> tuple[Reference | None, int]:
    """Measure the losses of real images, or take known ones.

    Returns:
        The losses, None where nothing is to be filtered; 1 when a real image failed, else 0.

    Raises:
        UserError: no real image could be used, and what `run_job` raises.
    """
    reference, failed = setup.known, 0
    if setup.reference:
        place = options.out / FOLDER
        request = request_of(setup.args, model=setup.artifact.config, further=("reference",))
        items = [pair.item for pair in setup.reference]
        summary = run_job(items, setup.measuring, replace(options, out=place), request)
        failed = summary.exit_code
        if not summary.done and not summary.skipped:
            raise UserError(f"None of the reference images can be used; the first one: {summary.reasons[0]}")
        wanted = {pair.item.id for pair in setup.reference}
        rows = [row for row in read_manifest(place) if row["status"] == DONE and row["id"] in wanted]
        check_rows(place, rows, setup, JUDGEMENT)
        reference = Reference(*totals(rows, setup), len(rows), setup.head)
        if os.environ.get("RANK", "0") == "0":
            print(f"reference: {summary.render()}")
    return reference, failed


def check_rows(out: Path, rows: Iterable[Mapping[str, Any]], setup: Setup, shape: Any) -> None:
    """UserError for the line of a finished image that `perception score` has not written so."""
    for row in rows:
        if not is_judgement(row, setup.classes, list(setup.objects), setup.args.areas, shape):
            raise strange_line(out, row["id"])


def totals(rows: Iterable[Mapping[str, Any]], setup: Setup) -> tuple[ClassLoss, ComponentRecall]:
    """Losses and recalled objects of manifest lines, added up in their order."""
    loss = ClassLoss.empty(len(setup.classes))
    recall = ComponentRecall.empty(tuple(setup.objects), setup.args.areas)
    for row in rows:
        loss += ClassLoss.from_json(row["class_loss"], setup.classes)
        recall += ComponentRecall.from_json(row["objects"])
    return loss, recall
