"""The printed report of `perception classify`: labels of a few images, and accuracies where the truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from perception.classification.prompts import PromptSet
from perception.data.documents import conforms
from perception.data.files import write_atomic
from perception.errors import printable
from perception.jobs.images import finished, listing
from perception.jobs.items import Item
from perception.jobs.manifest import strange_line
from perception.metrics.calibration import ReliabilityBins
from perception.metrics.classification import LEGIBLE, ClassificationMetrics, confusion_picture, format_table

CONFUSION, RELIABILITY = "confusion.png", "reliability.png"  # below OUT
_EVALUATIONS = {
    "evaluations": "{:.1f} denoiser evaluations per image",
    "map_evaluations": "and {:.1f} for its error map",
}
ANSWER = {  # fields of a manifest line that are read here
    "label": str,
    "ranking": [str],
    "margin": (float, None),
    "margin_se": (float, None),
    "runner_up": (str, None),
    **{kind if kind == "evaluations" else f"{kind}?": int for kind in _EVALUATIONS},
    "probabilities?": {str: float},
    "preselected?": [int],
}


def is_answer(record: Mapping[str, Any], names: Container[str]) -> bool:
    """Whether the line of a finished image has what `perception classify` writes, about classes of these names."""
    if not conforms(record, ANSWER) or not record["ranking"]:
        return False
    told = [record["label"], *record["ranking"]]
    return all(name in names for name in told) and record["label"] in record.get("probabilities", told)


class Answer(NamedTuple):
    """What is kept of a finished image of known class: its record may hold the errors of a thousand classes."""

    truth: int  # class number
    ranking: tuple[int, ...]  # class numbers, best first, 5 or fewer
    confidence: float | None  # probability of the label; None without a calibration
    preselected: bool | None  # whether CLIP let the true class into the race; None where it was not asked

    @classmethod
    def of(cls, record: Mapping[str, Any], truth: int, number: Mapping[str, int]) -> Answer:
        """Of a manifest record; `number` holds the position of each class name."""
        ranking = tuple(number[name] for name in record["ranking"])
        confidence = record["probabilities"][record["label"]] if "probabilities" in record else None
        preselected = truth in record["preselected"] if "preselected" in record else None
        return cls(truth, ranking, confidence, preselected)


def report(
    out: Path,
    items: Sequence[Item],  # their labels are the truth, whatever was known when they were classified
    prompts: PromptSet,
    headline: str | None = None,  # the customary figure: "top-1" or "mean per class"
) -> str:
    """Summarise the finished ones among `items`; "" when there are none. Pictures of the labelled ones go to `out`."""
    names = prompts.names
    number = {name: c for c, name in enumerate(names)}
    classes = {label: prompts.find(label) for label in {item.label for item in items} if label is not None}
    truths = {item.id: None if item.label is None else classes[item.label] for item in items}
    told: list[tuple[str, str]] = []
    spent: Counter[str] = Counter()
    answers = []
    for record in finished(out, truths, ANSWER):
        if not is_answer(record, number):
            raise strange_line(out, record["id"])
        told.append((record["id"], f"{record['label']}{_lead(record)}"))
        spent.update({kind: record.get(kind, 0) for kind in _EVALUATIONS})
        truth = truths[record["id"]]
        if truth is not None:
            answers.append(Answer.of(record, truth, number))
    if not told:
        return ""
    parts = [listing(told), [evaluations_line(spent, len(told))]]
    if answers:
        parts += [accuracy_lines(out, answers, list(map(printable, names)), headline), calibration_lines(out, answers)]
        parts.append(preselection_lines(answers))
    return "\n\n".join("\n".join(part) for part in parts if part)


def evaluations_line(spent: Mapping[str, int], images: int) -> str:
    """How many denoiser evaluations an image took; those of error maps apart."""
    kinds = [kind for kind in _EVALUATIONS if spent[kind] or kind == "evaluations"]
    return ", ".join(_EVALUATIONS[kind].format(spent[kind] / images) for kind in kinds)


def accuracy_lines(
    out: Path, answers: Sequence[Answer], names: Sequence[str], headline: str | None = None
) -> list[str]:
    """Images and accuracy per true class, top-1, top-5, mean over classes; who is taken for whom goes to a picture."""
    ranked = torch.tensor([answer.ranking for answer in answers])  # [B, 5 or fewer]
    metrics = ClassificationMetrics.of(ranked, torch.tensor([answer.truth for answer in answers]), len(names))
    write_atomic(out / CONFUSION, confusion_picture(metrics.grouped(LEGIBLE), names))
    lines = [format_table(metrics, names)]
    if headline is not None:
        figure = metrics.mean_per_class if headline == "mean per class" else metrics.top1
        lines.append(f"the figure that papers report on this set: {headline} {100 * figure:.2f}%")
    mistakes = [f"{truth} as {guess} ({count})" for truth, guess, count in metrics.mistakes(names, 5)]
    lines += [f"most often taken for another: {', '.join(mistakes)}"] if mistakes else []
    return [*lines, f"confusion matrix: {out / CONFUSION}"]


def calibration_lines(out: Path, answers: Sequence[Answer]) -> list[str]:
    """How far the probabilities of the labels can be believed, when there are any; also as a picture."""
    known = [answer.confidence for answer in answers if answer.confidence is not None]
    if len(known) < len(answers):
        return []
    confidence = torch.tensor(known, dtype=torch.float64)  # [B]
    state = ReliabilityBins.of(confidence, torch.tensor([answer.ranking[0] == answer.truth for answer in answers]))
    write_atomic(out / RELIABILITY, state.picture())
    return [
        f"mean confidence {confidence.mean().item():.2%}, expected calibration error {state.ece:.2%}",
        f"reliability diagram: {out / RELIABILITY}",
    ]


def preselection_lines(answers: Sequence[Answer]) -> list[str]:
    """How many true classes CLIP let into the race, where it was asked: no accuracy can be higher."""
    kept = [answer.preselected for answer in answers if answer.preselected is not None]
    if not kept:
        return []
    return [f"the true class was among those preselected by CLIP for {sum(kept) / len(kept):.2%} of the images"]


def _lead(record: Mapping[str, Any]) -> str:
    """Over the runner-up, in standard errors."""
    if not record["margin_se"]:
        return ""
    return f"  ({record['margin'] / record['margin_se']:.1f} standard errors ahead of {record['runner_up']})"
