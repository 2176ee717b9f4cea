"""What `perception classify` tells at the end: labels of a few images, and accuracies where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.commands.results import MOST_LINES
from perception.data.files import write_atomic
from perception.engine.items import Item
from perception.engine.manifest import DONE, read_manifest
from perception.metrics.calibration import Calibration
from perception.metrics.classification import ClassificationMetrics, confusion_picture, format_table

CONFUSION, RELIABILITY = "confusion.png", "reliability.png"  # below OUT


def report(
    out: Path,
    items: Sequence[Item],
    names: Sequence[str],  # of all classes
    headline: str | None = None,  # the customary figure: "top-1" or "mean per class"
) -> str:
    """Summarise the finished ones among `items`; "" when there are none. Pictures of the labelled ones go to `out`."""
    wanted = {item.id for item in items}
    records = [record for record in read_manifest(out) if record["status"] == DONE and record["id"] in wanted]
    if not records:
        return ""
    lines = label_lines(records[:MOST_LINES])
    if len(records) > MOST_LINES:
        lines.append(f"... and {len(records) - MOST_LINES} more")
    labelled = [record for record in records if "truth" in record]
    parts = [lines, [evaluations_line(records)]]
    if labelled:
        parts += [accuracy_lines(out, labelled, names, headline), calibration_lines(out, labelled, names)]
        parts.append(preselection_lines(labelled))
    return "\n\n".join("\n".join(part) for part in parts if part)


def label_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """One line per image: id, label, and its lead over the runner-up in standard errors."""
    width = max(len(record["id"]) for record in records)
    return [f"{record['id']:<{width}}  {record['label']}{_lead(record)}" for record in records]


def evaluations_line(records: Sequence[dict[str, Any]]) -> str:
    """How many denoiser evaluations an image took; those of screening rounds and error maps apart."""
    kinds = {
        "evaluations": "{:.1f} denoiser evaluations per image",
        "preselect_evaluations": "{:.1f} before it for the label tree",
        "screen_evaluations": "{:.1f} before it on the small image",
        "map_evaluations": "and {:.1f} for its error map",
    }
    means = {kind: sum(record.get(kind, 0) for record in records) / len(records) for kind in kinds}
    return ", ".join(text.format(means[kind]) for kind, text in kinds.items() if means[kind] or kind == "evaluations")


def accuracy_lines(
    out: Path, records: Sequence[dict[str, Any]], names: Sequence[str], headline: str | None = None
) -> list[str]:
    """Images and accuracy per true class, top-1, top-5, mean over classes; who is taken for whom goes to a picture."""
    number = {name: c for c, name in enumerate(names)}
    ranked = torch.tensor([[number[name] for name in record["ranking"]] for record in records])  # [B, 5 or fewer]
    metrics = ClassificationMetrics.of(ranked, _truth(records, names), len(names))
    write_atomic(out / CONFUSION, confusion_picture(metrics.confusion, names))
    lines = [format_table(metrics, names)]
    if headline is not None:
        figure = metrics.mean_per_class if headline == "mean per class" else metrics.top1
        lines.append(f"the figure that papers report on this set: {headline} {100 * figure:.2f}%")
    mistakes = [f"{truth} as {guess} ({count})" for truth, guess, count in metrics.mistakes(names, 5)]
    lines += [f"most often taken for another: {', '.join(mistakes)}"] if mistakes else []
    return [*lines, f"confusion matrix: {out / CONFUSION}"]


def calibration_lines(out: Path, records: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """How far the probabilities can be believed, when there are any; also as a picture."""
    if not all("probabilities" in record for record in records):
        return []
    rows = [[record["probabilities"][name] for name in names] for record in records]
    probabilities = torch.tensor(rows, dtype=torch.float64)  # [B, K]
    state = Calibration.of(probabilities, _truth(records, names))
    write_atomic(out / RELIABILITY, state.picture())
    confidence = probabilities.max(dim=1).values.mean().item()
    return [
        f"mean confidence {confidence:.2%}, expected calibration error {state.ece:.2%}",
        f"reliability diagram: {out / RELIABILITY}",
    ]


def preselection_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """How many true classes CLIP let into the race, where it was asked: no accuracy can be higher."""
    kept = [record["truth"] in record["preselected"] for record in records if "preselected" in record]
    if not kept:
        return []
    return [f"the true class was among those preselected by CLIP for {sum(kept) / len(kept):.2%} of the images"]


def _truth(records: Sequence[dict[str, Any]], names: Sequence[str]) -> Tensor:
    """True class ids, int64 [B]."""
    number = {name: c for c, name in enumerate(names)}
    return torch.tensor([number[record["truth"]] for record in records])


def _lead(record: dict[str, Any]) -> str:
    if not record["margin_se"]:
        return ""
    return f"  ({record['margin'] / record['margin_se']:.1f} standard errors ahead of {record['runner_up']})"
