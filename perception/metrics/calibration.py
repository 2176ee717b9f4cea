"""Reliability of probabilities: expected calibration error and its diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.metrics.classification import png


@dataclass(frozen=True)
class ReliabilityBins:
    """Confidence (the probability of the answer) against accuracy, in equally wide bins; states add up."""

    images: Tensor  # int64 [M], per bin
    confidence: Tensor  # float64 [M], summed
    correct: Tensor  # int64 [M]

    @classmethod
    def empty(cls, bins: int = 15) -> ReliabilityBins:
        """The neutral element of the addition."""
        return cls(*(torch.zeros(bins, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.int64)))

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, bins: int = 15) -> ReliabilityBins:
        """Counts of some images: confidence [B], correct bool [B]; bin m holds confidences ((m-1)/M, m/M]."""
        confidence, correct = confidence.double().cpu(), correct.cpu()
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
        place = torch.bucketize(confidence, edges)
        return cls(
            torch.bincount(place, minlength=bins),
            torch.bincount(place, confidence, minlength=bins),
            torch.bincount(place[correct], minlength=bins),
        )

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        images, correct = self.images + other.images, self.correct + other.correct
        return ReliabilityBins(images, self.confidence + other.confidence, correct)

    @property
    def ece(self) -> float:
        """Expected calibration error, sum over bins of share * |accuracy - confidence| (Guo et al. 2017, eq. 3)."""
        total = self.images.sum()
        return float((self.correct - self.confidence).abs().sum() / total) if total else float("nan")

    @property
    def accuracy(self) -> Tensor:
        """Per bin, float64 [M]; NaN where it is empty."""
        return self.correct.double() / self.images

    @property
    def mean_confidence(self) -> Tensor:
        """Per bin, float64 [M]; NaN where it is empty."""
        return self.confidence / self.images

    def picture(self, title: str = "") -> bytes:
        """A reliability diagram as PNG: accuracy per bin of confidence, the diagonal, and the images per bin."""
        from matplotlib.figure import Figure  # heavy

        bins = len(self.images)
        middles = (np.arange(bins) + 0.5) / bins
        figure = Figure((5, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        upper.bar(middles, self.accuracy.nan_to_num().numpy(), 0.9 / bins, color="tab:blue", label="accuracy")
        upper.plot([0, 1], [0, 1], "--", color="black", label="perfect")
        upper.plot(
            self.mean_confidence.numpy(), self.accuracy.numpy(), "o", color="tab:orange", label="mean confidence"
        )
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"{title}  ECE {100 * self.ece:.1f} %".strip())
        upper.legend(loc="upper left")
        lower.bar(middles, self.images.numpy(), 0.9 / bins, color="tab:grey")
        lower.set(xlabel="confidence", ylabel="images")
        return png(figure)
