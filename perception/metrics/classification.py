"""Image classification: top-1, top-k, mean per class, and who is taken for whom."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError
from perception.metrics.confusion import ConfusionMatrix

_NAMED, _COUNTED = 60, 20  # most classes whose names, and whose counts, are legible in a picture


@dataclass(frozen=True)
class ClassificationMetrics:
    """Counts over images; states add up.

    All scores are fractions in [0, 1]; a class without an image leaves the mean over classes. Papers on Pets, Flowers,
    Aircraft and Caltech-101 report `mean_per_class`, most others `top1` (Kornblith et al. 2019).
    """

    confusion: ConfusionMatrix  # row = true class, column = prediction, in images
    found: Tensor  # int64 [K]: images per true class whose class is among the k best
    k: int = 5

    @classmethod
    def empty(cls, num_classes: int, k: int = 5) -> ClassificationMetrics:
        """The neutral element of the addition."""
        return cls(ConfusionMatrix.empty(num_classes), torch.zeros(num_classes, dtype=torch.int64), k)

    @classmethod
    def of(
        cls,
        ranked: Tensor,  # int64 [B, R]: class ids, best first; R = min(k, num_classes) or more
        target: Tensor,  # int64 [B]: true class ids
        num_classes: int,
        k: int = 5,
    ) -> ClassificationMetrics:
        """Counts of some images.

        Raises:
            UserError: shapes that do not fit, fewer than k entries per image, or an id out of range.
        """
        check_tensors(ranked=ranked, target=target)
        if ranked.ndim != 2 or target.shape != ranked.shape[:1] or ranked.shape[1] < min(k, num_classes):
            raise UserError(
                f"ranked classes of shape {tuple(ranked.shape)} and true classes of shape {tuple(target.shape)} do not "
                f"fit; expected [B, {min(k, num_classes)} or more] and [B]"
            )
        ranked, target = ranked.long().cpu(), target.long().cpu()
        confusion = ConfusionMatrix.of(ranked[:, 0], target, num_classes, ignore_index=-1)
        hit = (ranked[:, :k] == target[:, None]).any(1)
        return cls(confusion, torch.bincount(target[hit], minlength=num_classes), k)

    def __add__(self, other: ClassificationMetrics) -> ClassificationMetrics:
        return ClassificationMetrics(self.confusion + other.confusion, self.found + other.found, self.k)

    @property
    def images(self) -> int:
        """Images seen."""
        return int(self.confusion.counts.sum())

    @property
    def per_class(self) -> Tensor:
        """Accuracy per true class, float64 [K]; NaN without an image."""
        return self.confusion.recall

    @property
    def top1(self) -> float:
        """Share of the images whose best class is right."""
        return self.confusion.pixel_accuracy

    @property
    def topk(self) -> float:
        """Share of the images whose class is among the k best."""
        return float(self.found.sum() / self.images) if self.images else float("nan")

    @property
    def mean_per_class(self) -> float:
        """Mean of `per_class` over the classes that have images."""
        return self.confusion.mean_accuracy

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready: figures in percent (None where undefined), images, and per class images and accuracy."""
        images = self.confusion.counts.sum(1).tolist()
        return {
            "top1": _percent(self.top1),
            f"top{self.k}": _percent(self.topk),
            "mean_per_class": _percent(self.mean_per_class),
            "images": self.images,
            "classes": {
                name: {"images": count, "accuracy": _percent(rate)}
                for name, count, rate in zip(names, images, self.per_class.tolist(), strict=True)
            },
        }

    def mistakes(self, names: Sequence[str], most: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent confusions (true class, prediction, images), largest first."""
        wrong = self.confusion.counts.clone().fill_diagonal_(0)
        order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
        pairs = ((place // len(names), place % len(names)) for place in order)
        return [(names[row], names[column], int(wrong[row, column])) for row, column in pairs if wrong[row, column]]


def race_ranking(
    alive: Sequence[Sequence[int]],  # candidates of every block, then the final ones (Classification.alive)
    errors: Sequence[float],  # mean error per candidate
    classes: Sequence[int],  # whom each candidate speaks for
) -> list[int]:
    """Classes, best first, after a race: who stayed longer ranks higher, equals by their mean error.

    Means of candidates that left at different times rest on different samples, so they alone give no ranking.
    """
    order: dict[int, None] = {}
    for block in reversed(alive):
        order |= dict.fromkeys(sorted((c for c in block if c not in order), key=lambda c: errors[c]))
    return list(dict.fromkeys(classes[c] for c in order))


def format_table(metrics: ClassificationMetrics, names: Sequence[str]) -> str:
    """A plain table: images and accuracy per class that has images, then the means, in percent."""
    report = metrics.report(names)
    seen = {name: row for name, row in report["classes"].items() if row["images"]}
    means = {"top-1": "top1", f"top-{metrics.k}": f"top{metrics.k}", "mean per class": "mean_per_class"}
    width = max(map(len, (*seen, *means)))
    rows = [(name, row["images"], row["accuracy"]) for name, row in seen.items()]
    rows += [(title, metrics.images, report[key]) for title, key in means.items()]
    lines = (f"{name:<{width}}  {count:6d}  {_cell(rate)}" for name, count, rate in rows)
    return "\n".join([f"{'class':<{width}}  images  accuracy", *lines])


def confusion_picture(matrix: ConfusionMatrix, names: Sequence[str]) -> bytes:
    """A PNG of the confusion matrix: colour = share of the true class, number = images (up to 20 classes)."""
    from matplotlib.figure import Figure  # heavy

    counts = matrix.counts.double()
    share = (counts / counts.sum(1, keepdim=True)).nan_to_num().numpy()  # [K, K]
    side = min(24.0, 4 + 0.3 * len(names))  # inches
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot(xlabel="prediction", ylabel="true class")
    shown = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(shown, label="share of the true class", shrink=0.7)
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= _COUNTED:
        _write_counts(axes, matrix.counts.tolist(), share)
    return png(figure)


def png(figure: Any) -> bytes:
    """A matplotlib figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _write_counts(axes: Any, counts: list[list[int]], share: Any) -> None:
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                dark = share[row, column] > 0.5
                axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")


def _percent(value: float) -> float | None:
    return None if value != value else round(100 * value, 4)


def _cell(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:7.2f}%"
