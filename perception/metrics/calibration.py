"""Probabilities from denoising errors, and how far they can be believed.

Mean errors of two classes differ by 1e-3 to 1e-2, so softmax(-error) says nothing; softmax(-beta * error) with one
beta fitted on a few labelled images does (temperature scaling: Guo et al. 2017, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.errors import UserError
from perception.metrics.classification import png

_LOG_BETA = (-20.0, 20.0)  # bounds of log(beta * spread of the errors)
_LOG_TINY = -690.0  # stands for the logarithm of a probability of 0


def class_probabilities(errors: Tensor, beta: float) -> Tensor:
    """softmax(-beta * errors) over classes; errors [B, C], larger is worse. NaN (not evaluated) has probability 0."""
    return (-beta * errors.double().nan_to_num(nan=float("inf"))).softmax(dim=1)


def paired_sums(table: Tensor) -> Tensor:
    """Summed errors [C], relative to the winner's, of one image's error table [C, N]: comparable after a race.

    Candidates that left early have NaN behind their last sample. d(c) = n * mean over common samples of e(c) - e(w),
    with w the winner, the smallest mean among the rows that have seen the most, and n its samples.
    """
    seen = ~table.isnan()  # [C, N]
    counts = seen.sum(1)
    means = table.double().nanmean(1).masked_fill(counts < counts.max(), float("inf"))
    winner = int(means.argmin())
    difference = (table.double() - table[winner].double()).nanmean(1)  # NaN for a candidate without a sample
    return difference * int(counts.max())


def fit_temperature(errors: Tensor, labels: Tensor) -> float:
    """The beta > 0 that makes softmax(-beta * errors) most likely on labelled images.

    The true class of B images has the target (B + 1) / (B + 2) in place of 1 (Platt 1999, section 2.2), so that beta
    stays finite where every image is right.

    Args:
        errors: [B, C], sums or means over samples (means give a beta larger by the number of samples).
        labels: int64 [B], true classes.

    Raises:
        UserError: shapes do not fit, or a true class has no finite error.
    """
    from scipy.optimize import minimize_scalar  # half a second, which reading a table of figures need not wait for

    scores, target = _checked(errors, labels)
    finite = scores[scores.isfinite()]
    spread = float((finite - finite.min()).std(correction=0)) or 1.0
    share = 1 / (len(target) + 2)  # of the other classes together

    def loss(log_beta: float) -> float:
        true, others = _log_odds(-float(np.exp(log_beta)) / spread * scores, target)
        return float(-((1 - share) * true + share * others).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_BETA, method="bounded").x)) / spread


def fit_weights(errors: Tensor, labels: Tensor, penalty: float = 1e-2) -> Tensor:
    """Weights w [N] >= 0 of the samples for softmax(-sum over k of w_k e[c, k]); replaces beta and the plain sum.

    Minimises mean cross entropy + penalty * mean((w / w_0 - 1)^2), where w_0 is the best constant weight: with few
    labels it stays near the uniform one (learned timestep weights: arXiv 2505.17955).

    Args:
        errors: [B, C, N], all evaluated, the same timestep in the same column for all images.
        labels: int64 [B], true classes.

    Raises:
        UserError: shapes do not fit, or errors that are not finite.
    """
    from scipy.optimize import minimize

    if errors.ndim != 3 or not errors.isfinite().all():
        raise UserError(
            f"the errors have shape {tuple(errors.shape)}; expected finite numbers [images, classes, samples]"
        )
    _, target = _checked(errors.sum(2), labels)
    uniform = fit_temperature(errors.sum(2), labels)
    gap = errors.double() - errors.double().mean(1, keepdim=True)  # what all classes share does not matter

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        ratio = torch.from_numpy(values).requires_grad_()
        logits = -uniform * torch.einsum("bcn,n->bc", gap, ratio)
        total = torch.nn.functional.cross_entropy(logits, target) + penalty * (ratio - 1).square().mean()
        (gradient,) = torch.autograd.grad(total, ratio)
        return float(total.detach()), gradient.numpy()

    bounds = [(0.0, None)] * errors.shape[2]
    with torch.enable_grad():
        best = minimize(loss, np.ones(errors.shape[2]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return uniform * torch.from_numpy(best)


@dataclass(frozen=True)
class Calibration:
    """Confidence (the probability of the answer) against accuracy, in equally wide bins; states add up."""

    images: Tensor  # int64 [M], per bin
    confidence: Tensor  # float64 [M], summed
    correct: Tensor  # int64 [M]

    @classmethod
    def empty(cls, bins: int = 15) -> Calibration:
        """The neutral element of the addition."""
        return cls(*(torch.zeros(bins, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.int64)))

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, bins: int = 15) -> Calibration:
        """Counts of some images: confidence [B], correct bool [B]; bin m holds confidences ((m-1)/M, m/M]."""
        confidence, correct = confidence.double().cpu(), correct.cpu()
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
        place = torch.bucketize(confidence, edges)
        return cls(
            torch.bincount(place, minlength=bins),
            torch.bincount(place, confidence, minlength=bins),
            torch.bincount(place[correct], minlength=bins),
        )

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.images + other.images, self.confidence + other.confidence, self.correct + other.correct)

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


def _checked(errors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores, target = errors.double().cpu(), labels.long().cpu()
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not len(target):
        raise UserError(
            f"errors of shape {tuple(errors.shape)} do not fit labels of shape {tuple(labels.shape)}; "
            "expected [images, classes] and [images], one image or more"
        )
    if target.min() < 0 or target.max() >= scores.shape[1]:
        raise UserError(
            f"the labels hold {int(target.min())} to {int(target.max())}, but there are {scores.shape[1]} classes"
        )
    if not scores.gather(1, target[:, None]).isfinite().all():
        raise UserError("a true class was never evaluated; fit on errors that hold every true class")
    return scores, target


def _log_odds(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log p of the true class, and of all others together, each [B]; logits [B, C], NaN (not evaluated): p = 0."""
    logits = logits.nan_to_num(nan=-float("inf"))
    own = torch.nn.functional.one_hot(target, logits.shape[1]).bool()
    whole = logits.logsumexp(1)
    others = logits.masked_fill(own, -float("inf")).logsumexp(1)
    return logits[own] - whole, (others - whole).clamp_min(_LOG_TINY)
