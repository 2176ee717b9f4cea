"""Completes a score folder: scores.jsonl, accepted and rejected samples, recall, counts, statistics, card."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.curation.card import FilterFacts, filter_card
from perception.curation.hardness import mean_hardness, sample_counts
from perception.curation.job import FILTERED_PLACE, SCORE
from perception.curation.measure import check_rows, totals
from perception.curation.pairs import FilePair
from perception.curation.reference import FILE, Reference
from perception.curation.setup import Setup
from perception.data.files import write_changed
from perception.generation.publishing.catalogue import CARD, statistics_files
from perception.generation.publishing.prompt_report import PromptReport
from perception.jobs.manifest import DONE, encode_line, read_manifest
from perception.metrics.component_recall import ComponentRecall

Row = dict[str, Any]


def finish(setup: Setup, reference: Reference | None, out: Path) -> list[str]:
    """Write the files beside the filtered label maps; a function of the manifests and options, so a rerun with the
    same ones writes the same bytes, and one with another --min-score only moves samples between the lists.

    Returns lines to print; none where no sample is scored.
    """
    pairs = {pair.id: pair for pair in setup.pairs}
    records = [record for record in read_manifest(out) if record["id"] in pairs]
    done = [record for record in records if record["status"] == DONE]
    if not done:
        return []
    check_rows(out, done, setup, SCORE)
    scores = [_score(setup, pairs[record["id"]], record, out) for record in done]
    accepted = [score for score in scores if score["accepted"]]
    generated = [pairs[score["id"]].provenance for score in scores if pairs[score["id"]].provenance]
    recall = totals(done, setup)[1]
    tables = _tables(recall, reference)
    files = {
        "scores.jsonl": b"".join(map(encode_line, scores)),
        "accepted.txt": _lines(score["id"] for score in accepted),
        "rejected.txt": _lines(score["id"] for score in scores if not score["accepted"]),
        "component_recall.json": _json(
            {"samples": recall.to_json(), "reference": reference and reference.objects.to_json()}
        ),
        "per_label.json": _json(_counts(setup, scores)),
        CARD: _card(setup, reference, scores, len(records) - len(done), tables, out).encode(errors="backslashreplace"),
        **statistics_files(accepted, FILTERED_PLACE if reference else _original_place(setup, out)),
    }
    if reference is not None:
        files[FILE] = _json(reference.to_json(setup.head.classes))
    lines = [*_summary(setup, scores, accepted, reference), tables]
    if generated:
        report = PromptReport.of(generated, setup.head.classes)
        files["prompts.json"] = _json(report.to_json())
        lines.append(report.render())
    for name, content in files.items():
        write_changed(out / name, content)
    return lines


def _score(setup: Setup, pair: FilePair, record: Mapping[str, Any], out: Path) -> Row:
    """One line of scores.jsonl: paths relative to OUT."""
    kept = ("source", "pixel_accuracy", "mean_iou", "loss", "ignored_share", "class_pixels")
    return {
        "id": pair.id,
        "accepted": record[setup.options.metric] >= setup.options.min_score,
        "image": _relative(pair.image, out),
        "labels": _relative(pair.labels, out),
        "labels_filtered": next(iter(record["output"]), None),
        **{key: record[key] for key in kept},
        "class_loss": {name: round(row["mean"], 6) for name, row in record["class_loss"].items()},
    }


def _counts(setup: Setup, scores: Sequence[Row]) -> dict[str, int]:
    hardness = mean_hardness((score["source"], score["loss"]) for score in scores)
    return sample_counts(hardness, setup.options.max_count, setup.options.count_by)


def _tables(recall: ComponentRecall, reference: Reference | None) -> str:
    title = "recalled objects by area in pixels"
    tables = [recall.table(f"{title}, samples")]
    if reference is not None:
        tables.append(reference.objects.table(f"{title}, real images (where the head misses too)"))
    return "\n\n".join(tables)


def _card(setup: Setup, reference: Reference | None, scores: Sequence[Row], failed: int, tables: str, out: Path) -> str:
    options, pairs = setup.options, {pair.id: pair for pair in setup.pairs}
    facts = FilterFacts(
        folder=_relative(setup.folder, out),
        model=f"{setup.head.name} {setup.head.identity['model']}, {len(setup.head.classes)} classes",
        reference=f"{reference.images} images" if reference else "",
        alpha=options.alpha,
        metric=options.metric,
        min_score=options.min_score,
        unjudged=_unjudged(setup, reference),
        failed=failed,
    )
    first = pairs[scores[0]["id"]]
    places = {
        "images": _relative(_root(first.image, first.id), out),
        "labels": "labels_filtered" if reference else _relative(_root(first.labels, first.id), out),
        "image_end": first.image.name.removeprefix(Path(first.id).name),
        "labels_end": "_labelTrainIds.png" if reference else first.labels.name.removeprefix(Path(first.id).name),
    }
    generated = [pairs[s["id"]].provenance for s in scores if s["accepted"] and pairs[s["id"]].provenance]
    return filter_card(scores, generated, setup.head.classes, facts, places, tables)


def _summary(setup: Setup, scores: Sequence[Row], accepted: Sequence[Row], reference: Reference | None) -> list[str]:
    def mean(key: str) -> float:
        return math.fsum(score[key] for score in scores) / len(scores)

    lines = [
        f"{len(scores)} samples: mIoU {mean('mean_iou'):.4f}, pixel accuracy {mean('pixel_accuracy'):.4f}, "
        f"cross-entropy {mean('loss'):.4f}; {len(accepted)} accepted, {len(scores) - len(accepted)} rejected "
        f"({setup.options.metric} below {setup.options.min_score:g})"
    ]
    if reference is not None:
        lines.append(
            f"{100 * mean('ignored_share'):.2f} % of the labelled pixels ignored "
            f"(loss above {setup.options.alpha:g} x the class's mean on {reference.images} real images)"
        )
    if unjudged := _unjudged(setup, reference):
        lines.append(f"no real image shows {', '.join(unjudged)}: their pixels are all kept")
    return lines


def _unjudged(setup: Setup, reference: Reference | None) -> list[str]:
    if reference is None:
        return []
    return [n for n, count in zip(setup.head.classes, reference.class_loss.pixels.tolist(), strict=True) if not count]


def _original_place(setup: Setup, out: Path) -> str:
    first = setup.pairs[0]
    folder = _relative(_root(first.labels, first.id), out)
    return f"{folder}/{{}}{first.labels.name.removeprefix(Path(first.id).name)}"


def _root(path: Path, key: str) -> Path:
    """The folder that a sample's id is relative to."""
    return path.parents[len(Path(key).parts) - 1]


def _relative(path: Path, out: Path) -> str:
    """The path as seen from OUT, so that both folders may move together; links on the way are followed."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, out.resolve())).as_posix()


def _lines(names: Any) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
