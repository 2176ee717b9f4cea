"""Measures the losses of real images: a job of its own below OUT/reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception.curation.job import JUDGEMENT, is_judgement
from perception.curation.reference import Reference
from perception.curation.setup import Setup
from perception.errors import UserError
from perception.jobs.contract import JobOptions, JobSummary
from perception.jobs.finished import Request
from perception.jobs.manifest import DONE, read_manifest, strange_line
from perception.jobs.runner import run_job
from perception.metrics.class_loss import ClassLoss
from perception.metrics.component_recall import ComponentRecall

FOLDER = "reference"


def measure_reference(setup: Setup, options: JobOptions, request: Request | None) -> tuple[Reference, JobSummary]:
    """Judge the real images of a setup below OUT/reference; `request` is of `run_job`.

    Raises:
        UserError: no real image could be used, and what `run_job` raises.
    """
    place = options.out / FOLDER
    items = [pair.item for pair in setup.reference]
    summary = run_job(items, setup.measuring, replace(options, out=place), request)
    if not summary.done and not summary.skipped:
        raise UserError(f"None of the reference images can be used; the first one: {summary.reasons[0]}")
    wanted = {item.id for item in items}
    rows = [row for row in read_manifest(place) if row["status"] == DONE and row["id"] in wanted]
    check_rows(place, rows, setup, JUDGEMENT)
    return Reference(*totals(rows, setup), len(rows), setup.head.identity), summary


def check_rows(out: Path, rows: Iterable[Mapping[str, Any]], setup: Setup, shape: Any) -> None:
    """UserError for the line of a finished image that `perception score` has not written so."""
    for row in rows:
        if not is_judgement(row, setup.head.classes, list(setup.options.objects), setup.options.areas, shape):
            raise strange_line(out, row["id"])


def totals(rows: Iterable[Mapping[str, Any]], setup: Setup) -> tuple[ClassLoss, ComponentRecall]:
    """Losses and recalled objects of manifest lines, added up in their order."""
    loss = ClassLoss.empty(len(setup.head.classes))
    recall = ComponentRecall.empty(tuple(setup.options.objects), setup.options.areas)
    for row in rows:
        loss += ClassLoss.from_json(row["class_loss"], setup.head.classes)
        recall += ComponentRecall.from_json(row["objects"])
    return loss, recall
