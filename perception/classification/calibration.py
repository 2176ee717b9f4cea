"""Calibration of a zero-shot classifier on a few labelled images: how sure it is, and which timesteps to listen to.

Mean errors of two classes differ by 1e-3 to 1e-2, so softmax(-error) says nothing; softmax(-beta * error) with one
beta fitted on a few labelled images does (temperature scaling: Guo et al. 2017, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.classification.error_table import ErrorTable
from perception.classification.replay import Recorded
from perception.errors import UserError

_LOG_BETA = (-20.0, 20.0)  # bounds of log(beta * spread of the errors)
_LOG_TINY = -690.0  # stands for the logarithm of a probability of 0


@dataclass(frozen=True)
class ErrorCalibration:
    """p(class) = softmax(-beta * mean weighted error), errors paired with the winner's; weights are 1 on average."""

    beta: float  # of mean errors
    timesteps: tuple[int, ...] = ()  # where the weights were learned, ascending; empty: all weights are 1
    weights: tuple[float, ...] = ()

    def weight(self, timesteps: Sequence[int]) -> Tensor:
        """Weights of other timesteps: linear between those learned, constant beyond. float64 [N]."""
        if not self.timesteps:
            return torch.ones(len(timesteps), dtype=torch.float64)
        return torch.from_numpy(np.interp(timesteps, self.timesteps, self.weights))

    def probabilities(self, table: ErrorTable) -> Tensor:
        """Of the classes that the candidates of a table speak for, float64 [classes]."""
        leads = class_leads(table.errors * table.weights, table.classes)
        return class_probabilities(leads[None], self.beta)[0]


def class_leads(errors: Tensor, classes: Sequence[int]) -> Tensor:
    """How much larger the mean error of each class is than the winner's, on common samples; 0 for the winner's class.

    errors [C, N], NaN behind the last sample of a candidate; a class counts by its best candidate. float64 [classes].
    None is negative: on the few samples of a candidate that left early the later winner may have been behind it.
    """
    most = int((~errors.isnan()).sum(1).max())
    leads = (paired_sums(errors) / most).nan_to_num(nan=float("inf"))  # [C]; a candidate that never raced is no help
    best = torch.full((max(classes) + 1,), float("inf"), dtype=torch.float64)
    return best.scatter_reduce(0, torch.tensor(classes), leads.double().clamp_min(0), "amin")


def calibrate(images: Sequence[Recorded], weigh_timesteps: bool = False) -> ErrorCalibration:
    """Fit beta, and with `weigh_timesteps` the weights too, on labelled images with recorded errors.

    The weights need errors of all classes on one common grid, so of an exhaustive run; beta takes any run.
    Raises UserError without labels, and for weights when errors are missing or grids differ.
    """
    labelled = [(image, image.truth) for image in images if image.truth is not None]
    if not labelled:
        raise UserError("the recorded images have no known class; classify a folder that has a sub-folder per class")
    labels = torch.tensor([truth for _, truth in labelled])
    if not weigh_timesteps:
        leads = torch.stack([class_leads(image.errors, image.classes) for image, _ in labelled])
        return ErrorCalibration(fit_temperature(leads, labels))
    steps = labelled[0][0].timesteps
    if len(set(steps)) < len(steps) or any(image.timesteps != steps for image, _ in labelled):
        raise UserError("weights of timesteps need the same grid for all images, one noise per timestep")
    order = np.argsort(steps)
    weights = fit_weights(torch.stack([_per_class(image) for image, _ in labelled]), labels)  # [N]
    mean = float(weights.mean())  # beta of sums; of means it is larger by the number of samples
    relative = (weights / mean)[torch.from_numpy(order)]
    return ErrorCalibration(mean * len(steps), tuple(int(steps[i]) for i in order), tuple(relative.tolist()))


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


def _per_class(image: Recorded) -> Tensor:
    """The errors of each class's best candidate. [classes, N]."""
    means = image.errors.double().mean(1).tolist()
    best: dict[int, int] = {}
    for k in sorted(range(len(means)), key=lambda k: means[k]):
        best.setdefault(image.classes[k], k)
    return image.errors[[best[c] for c in range(max(image.classes) + 1)]]


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
