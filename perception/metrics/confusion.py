"""Confusion matrix over pixels and the IoU family read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError


@dataclass(frozen=True)
class ConfusionMatrix:
    """Pixel counts of (ground truth, prediction) pairs; states add up over images and processes.

    counts: int64 [K, K], row = ground-truth class, column = predicted class.
    All scores are fractions in [0, 1]; a class with an empty denominator is NaN and leaves the means.
    """

    counts: Tensor  # int64 [K, K]

    @classmethod
    def empty(cls, num_classes: int) -> ConfusionMatrix:
        """The neutral element of the addition, for `num_classes` classes."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    @classmethod
    def of(cls, prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> ConfusionMatrix:
        """Counts of one image or batch.

        Args:
            prediction: integer class ids, any shape, each in [0, num_classes).
            target: integer class ids of the same shape; pixels equal to `ignore_index` are left out.
        Raises:
            UserError: shapes differ, or an id is out of range.
        """
        check_tensors(prediction=prediction, target=target)
        if prediction.shape != target.shape:
            raise UserError(
                f"the prediction has shape {tuple(prediction.shape)} but the label map {tuple(target.shape)};"
                " resize the prediction to the label map first"
            )
        kept = target != ignore_index
        rows, columns = target[kept].long().cpu(), prediction[kept].long().cpu()
        _check_ids("label map", rows, num_classes, ignore_index)
        _check_ids("prediction", columns, num_classes, ignore_index)
        flat = torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
        return cls(flat.reshape(num_classes, num_classes))

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.counts + other.counts)

    @property
    def hits(self) -> Tensor:
        """True positives per class, float64 [K]."""
        return self.counts.diagonal().double()

    @property
    def targets(self) -> Tensor:
        """Ground-truth pixels per class, float64 [K]."""
        return self.counts.sum(1).double()

    @property
    def predictions(self) -> Tensor:
        """Predicted pixels per class, float64 [K]."""
        return self.counts.sum(0).double()

    @property
    def iou(self) -> Tensor:
        """Intersection over union, TP / (TP + FP + FN), float64 [K]."""
        return self.hits / (self.targets + self.predictions - self.hits)

    @property
    def recall(self) -> Tensor:
        """Class accuracy, TP / (TP + FN), float64 [K]."""
        return self.hits / self.targets

    @property
    def mean_iou(self) -> float:
        """mIoU: mean of `iou` over the classes that occur in the labels or in the prediction."""
        return float(self.iou.nanmean())

    @property
    def mean_accuracy(self) -> float:
        """Mean of `recall` over the classes that occur in the labels."""
        return float(self.recall.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        return float(self.hits.sum() / self.targets.sum())

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready figures in percent: mIoU, mAcc, aAcc, IoU and Acc by class name (None where undefined)."""
        return {
            "mIoU": _percent(self.mean_iou),
            "mAcc": _percent(self.mean_accuracy),
            "aAcc": _percent(self.pixel_accuracy),
            "IoU": {name: _percent(value) for name, value in zip(names, self.iou.tolist(), strict=True)},
            "Acc": {name: _percent(value) for name, value in zip(names, self.recall.tolist(), strict=True)},
            "pixels": int(self.counts.sum()),
        }


def format_report(report: dict[str, Any], title: str) -> str:
    """A plain table of `ConfusionMatrix.report`: one line per class, then the means (all in percent)."""
    width = max(len(name) for name in [*report["IoU"], "class", "mean"])
    lines = [title, f"{'class':<{width}}    IoU    Acc"]
    for name, iou in report["IoU"].items():
        lines.append(f"{name:<{width}} {_cell(iou)} {_cell(report['Acc'][name])}")
    lines.append(f"{'mean':<{width}} {_cell(report['mIoU'])} {_cell(report['mAcc'])}")
    lines.append(f"mIoU {_cell(report['mIoU']).strip()}, pixel accuracy {_cell(report['aAcc']).strip()}")
    return "\n".join(lines)


def _check_ids(what: str, ids: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = ids[(ids < 0) | (ids >= num_classes)].unique().tolist()
    if wrong:
        raise UserError(
            f"the {what} holds class ids {wrong[:8]}, but there are {num_classes} classes:"
            f" use 0..{num_classes - 1}, and {ignore_index} for pixels to ignore"
        )


def _percent(value: float) -> float | None:
    return None if value != value else round(100 * value, 4)


def _cell(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:6.2f}"
