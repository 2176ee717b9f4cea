"""Image classification: top-1, top-k, mean per class, confusion matrix."""

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
LEGIBLE = 1000  # most rows of a picture


@dataclass(frozen=True)
class ClassificationMetrics:
    """Counts over images; states add up, and are as large as there are classes and pairs of them that occur.

    All scores are fractions in [0, 1]; a class without an image leaves the mean over classes. Papers on Pets, Flowers,
    Aircraft and Caltech-101 report `mean_per_class`, most others `top1` (Kornblith et al. 2019).
    """

    pairs: Tensor  # int64 [P, 2]: true class and prediction that occur together, ascending
    images_of: Tensor  # int64 [P]: images of each pair
    found: Tensor  # int64 [K]: images per true class whose class is among the k best
    k: int = 5

    @classmethod
    def empty(cls, num_classes: int, k: int = 5) -> ClassificationMetrics:
        """The neutral element of the addition."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none.view(0, 2), none, torch.zeros(num_classes, dtype=torch.int64), k)

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
        _check_ids("truth", target, num_classes)
        _check_ids("prediction", ranked[:, 0], num_classes)
        pairs, counts = _counted(torch.stack([target, ranked[:, 0]], dim=1), torch.ones_like(target))
        hit = (ranked[:, :k] == target[:, None]).any(1)
        return cls(pairs, counts, torch.bincount(target[hit], minlength=num_classes), k)

    def __add__(self, other: ClassificationMetrics) -> ClassificationMetrics:
        both = torch.cat([self.pairs, other.pairs]), torch.cat([self.images_of, other.images_of])
        return ClassificationMetrics(*_counted(*both), self.found + other.found, self.k)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.found)

    @property
    def images(self) -> int:
        """Images seen."""
        return int(self.images_of.sum())

    @property
    def per_true_class(self) -> Tensor:
        """Images per true class, int64 [K]."""
        return torch.zeros_like(self.found).index_add(0, self.pairs[:, 0], self.images_of)

    def grouped(self, most: int) -> ConfusionMatrix:
        """The confusion matrix in images: row = true class, column = prediction.

        Of at most `most` groups of neighbouring classes, of equal size but for the last.
        """
        size = -(-self.num_classes // most)
        groups = -(-self.num_classes // size)
        counts = torch.zeros(groups, groups, dtype=torch.int64)
        places = self.pairs // size
        return ConfusionMatrix(counts.index_put((places[:, 0], places[:, 1]), self.images_of, accumulate=True))

    @property
    def per_class(self) -> Tensor:
        """Accuracy per true class, float64 [K]; NaN without an image."""
        right = self.pairs[:, 0] == self.pairs[:, 1]
        hits = torch.zeros_like(self.found).index_add(0, self.pairs[right, 0], self.images_of[right])
        return hits.double() / self.per_true_class.double()

    @property
    def top1(self) -> float:
        """Share of the images whose best class is right."""
        right = self.images_of[self.pairs[:, 0] == self.pairs[:, 1]].sum()
        return float(right / self.images) if self.images else float("nan")

    @property
    def topk(self) -> float:
        """Share of the images whose class is among the k best."""
        return float(self.found.sum() / self.images) if self.images else float("nan")

    @property
    def mean_per_class(self) -> float:
        """Mean of `per_class` over the classes that have images."""
        return float(self.per_class.nanmean())

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready: figures in percent (None where undefined), images, and per class images and accuracy."""
        images = self.per_true_class.tolist()
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
        wrong = self.pairs[:, 0] != self.pairs[:, 1]
        pairs, counts = self.pairs[wrong], self.images_of[wrong]
        order = counts.argsort(descending=True, stable=True)[:most]
        taken = zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        return [(names[row], names[column], count) for (row, column), count in taken]


def _check_ids(what: str, ids: Tensor, num_classes: int) -> None:
    wrong = ids[(ids < 0) | (ids >= num_classes)].unique().tolist()
    if wrong:
        raise UserError(
            f"the {what} holds class ids {wrong[:8]}, but there are {num_classes} classes; use 0 to {num_classes - 1}"
        )


def _counted(pairs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair [P, 2] once, ascending, with the sum of its counts [P]."""
    distinct, place = pairs.unique(dim=0, return_inverse=True)
    return distinct, torch.zeros(len(distinct), dtype=torch.int64).index_add(0, place, counts)


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
    """A PNG of a confusion matrix of these classes: colour = share of the true class, number = images (up to 20).

    Of many classes pass `ClassificationMetrics.grouped`: a picture cannot show a cell for each pair.
    """
    from matplotlib.figure import Figure  # heavy

    counts = matrix.counts.double()
    share = (counts / counts.sum(1, keepdim=True)).nan_to_num().numpy()  # [K, K]
    side = min(24.0, 4 + 0.3 * len(names))  # inches
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot(xlabel="prediction", ylabel="true class")
    edge = len(names) - 0.5
    shown = axes.imshow(share, vmin=0, vmax=1, cmap="Blues", extent=(-0.5, edge, edge, -0.5))
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
