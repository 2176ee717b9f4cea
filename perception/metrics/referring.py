"""Referring segmentation: overall and mean IoU and precision at IoU thresholds, as sums over sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class ReferringMetrics:
    """Sums over sentences, as LAVT and VPD report them; states add up over sentences and processes.

    All scores are fractions in [0, 1], NaN without a sentence. The IoU of a sentence whose union is empty is 0.
    """

    sentences: int = 0
    intersection: int = 0  # pixels, over all sentences
    union: int = 0  # pixels, over all sentences
    iou_sum: float = 0.0  # of the IoU of each sentence
    hits: tuple[int, ...] = (0,) * len(THRESHOLDS)  # sentences with IoU >= each of THRESHOLDS

    @classmethod
    def of(cls, prediction: Tensor, target: Tensor) -> ReferringMetrics:
        """Sums over the masks of some sentences.

        Args:
            prediction: bool or {0, 1}, [N, H, W] (one mask per sentence) or [H, W].
            target: the same shape and values.
        Raises:
            UserError: shapes differ, or a mask holds other values.
        """
        check_tensors(prediction=prediction, target=target)
        guess, truth = _mask("prediction", prediction), _mask("target", target)
        if guess.shape != truth.shape:
            raise UserError(
                f"the prediction has shape {tuple(prediction.shape)} but the target mask {tuple(target.shape)};"
                " resize one of them first, with nearest neighbours"
            )
        both, either = (guess & truth).sum((1, 2)), (guess | truth).sum((1, 2))  # [N]
        iou = both.double() / either.clamp(min=1)  # an empty union has an empty intersection
        return cls(
            sentences=len(iou),
            intersection=int(both.sum()),
            union=int(either.sum()),
            iou_sum=float(iou.sum()),
            hits=tuple(int((iou >= threshold).sum()) for threshold in THRESHOLDS),
        )

    def __add__(self, other: ReferringMetrics) -> ReferringMetrics:
        return ReferringMetrics(
            self.sentences + other.sentences,
            self.intersection + other.intersection,
            self.union + other.union,
            self.iou_sum + other.iou_sum,
            tuple(a + b for a, b in zip(self.hits, other.hits, strict=True)),
        )

    @property
    def overall_iou(self) -> float:
        """oIoU: summed intersection over summed union; large things weigh more. 0 where all unions are empty."""
        return self.intersection / max(self.union, 1) if self.sentences else float("nan")

    @property
    def mean_iou(self) -> float:
        """mIoU: mean over the sentences."""
        return self.iou_sum / self.sentences if self.sentences else float("nan")

    @property
    def precision(self) -> dict[float, float]:
        """P@X: share of the sentences with IoU >= X, by X."""
        count = self.sentences or float("nan")
        return {threshold: hits / count for threshold, hits in zip(THRESHOLDS, self.hits, strict=True)}

    def report(self) -> dict[str, Any]:
        """JSON-ready figures in percent: oIoU, mIoU, P@0.5 .. P@0.9, and the number of sentences."""
        shares = {"oIoU": self.overall_iou, "mIoU": self.mean_iou} | {f"P@{x}": p for x, p in self.precision.items()}
        percent = {name: round(100 * value, 4) if value == value else None for name, value in shares.items()}
        return {**percent, "sentences": self.sentences}


def _mask(what: str, mask: Tensor) -> Tensor:
    if mask.dim() not in (2, 3):
        raise UserError(f"the {what} has shape {tuple(mask.shape)}; expected masks [sentences, height, width]")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(f"the {what} holds values other than 0 and 1; threshold it, or take the argmax, first")
    return mask.bool().reshape(-1, *mask.shape[-2:])
