"""The four scores of a class-conditional DiT with learned variance, and the decisions they lead to.

Li et al. 2023, section 5.3 and appendix; the bound is that of improved DDPM (Nichol & Dhariwal 2021, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.noise_path import VariancePreservingPath
from perception.backbones.prediction import Prediction
from perception.errors import UserError

SCORES = ("mse", "l1", "kl", "nll")
"""Columns of the scores: mean squared and absolute error of the noise, then bits per dimension."""

DECISIONS: Mapping[str, tuple[int, ...]] = {"L2": (0,), "L1": (1,), "VLB": (2,), "L2+VLB": (0, 2)}
"""Names of the decision rules -> the columns whose sum is compared. The likelihood (3) decides nothing: it is meant
for 8-bit images."""


@dataclass(frozen=True)
class DiTScores:
    """What one call says about each row."""

    four: Tensor  # [B, 4] float32, columns as SCORES
    spatial: Tensor  # [B, h, w] float32, squared error of the noise, mean over channels


class PosteriorTables:
    """Coefficients of q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 6 and 7), made in float64 and read as float32."""

    def __init__(self, betas: Tensor) -> None:  # [T]
        betas = betas.double().cpu()
        alphas = 1 - betas
        abar = alphas.cumprod(0)
        before = torch.cat([abar.new_ones(1), abar[:-1]])  # abar_{t-1}
        variance = betas * (1 - before) / (1 - abar)
        self.log_betas = betas.log()
        self.log_variance = torch.cat([variance[1:2], variance[1:]]).log()  # 0 at t = 0, which takes the entry of t = 1
        self.of_x0 = betas * before.sqrt() / (1 - abar)
        self.of_x_t = (1 - before) * alphas.sqrt() / (1 - abar)
        self.inverse_signal = (1 / abar).sqrt()  # x0 = inverse_signal x_t - noise_ratio eps
        self.noise_ratio = (1 / abar - 1).sqrt()

    @classmethod
    def of(cls, backbone: DiffusionBackbone) -> PosteriorTables:
        """The tables of a backbone's schedule.

        Raises:
            UserError: for a rectified flow, which has no such chain.
        """
        path = backbone.noise_path
        if not isinstance(path, VariancePreservingPath) or path.betas is None:
            raise UserError(
                "the variational scores need a discrete variance preserving schedule; use the l2 or l1 loss"
            )
        return cls(path.betas)

    def take(self, table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Entries of a table, [B, 1, 1, 1] float32 on the device of `like`."""
        return table[t.cpu()].float().view(-1, 1, 1, 1).to(like.device)

    def mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x0), [B, C, h, w]."""
        return self.take(self.of_x0, t, x0) * x0 + self.take(self.of_x_t, t, x0) * x_t


def score_predictions(
    tables: PosteriorTables,
    prediction: Prediction,  # of a network with learned variance
    x0: Tensor,  # [B, C, h, w] clean latents
    noise: Tensor,  # [B, C, h, w] what they were mixed with
    t: Tensor,  # int64 [B] or [1]
) -> DiTScores:
    """The four scores and the error map of each row.

    kl is KL(q(x_{t-1} | x_t, x0) || p), nll the negative log-likelihood of x0 under p at the same t; p's mean comes
    from the unclipped estimate of x0, its variance from the network.

    Raises:
        UserError: when the network predicts no variance.
    """
    if prediction.variance is None:
        raise UserError("this backbone predicts no variance, so it has no variational scores; use the l2 or l1 loss")
    eps, x_t, x0 = prediction.eps, prediction.x_t.float(), x0.float()
    difference = noise.float() - eps
    estimate = tables.take(tables.inverse_signal, t, x_t) * x_t - tables.take(tables.noise_ratio, t, x_t) * eps
    low, high = tables.take(tables.log_variance, t, x_t), tables.take(tables.log_betas, t, x_t)
    fraction = (prediction.variance.float() + 1) / 2
    log_variance = fraction * high + (1 - fraction) * low
    mean = tables.mean(estimate, x_t, t)
    kl = gaussian_kl(tables.mean(x0, x_t, t), low, mean, log_variance)
    nll = -discretized_log_likelihood(x0, mean, log_variance / 2)
    maps = (difference.square(), difference.abs(), kl / math.log(2), nll / math.log(2))
    return DiTScores(torch.stack([m.flatten(1).mean(1) for m in maps], dim=1), maps[0].mean(1))


def gaussian_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N(mean_1, .) || N(mean_2, .)) in nats, elementwise."""
    ratio = torch.exp(log_variance_1 - log_variance_2)
    distance = (mean_1 - mean_2).square() * torch.exp(-log_variance_2)
    return 0.5 * (log_variance_2 - log_variance_1 - 1 + ratio + distance)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the Gaussian's mass in the bin of width 2/255 around `x`, elementwise (Ho et al. 2020, eq. 13).

    The outermost bins are open: below -0.999 and above 0.999. Masses are at least 1e-12.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (_normal_cdf(inverse * (x - mean + side / 255)) for side in (1, -1))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dit_scores(
    backbone: DiffusionBackbone, latents: Tensor, noise: Tensor, timesteps: Tensor, condition: Condition
) -> DiTScores:
    """Noise, denoise and score a batch.

    Args:
        backbone: a class-conditional model with learned variance.
        latents, noise: [B, C, h, w].
        timesteps: int64 [B].
        condition: 1 or B rows.

    Raises:
        UserError: for a model without variance or on another path.
    """
    tables = PosteriorTables.of(backbone)
    x_t = backbone.noise(latents, timesteps, noise)
    return score_predictions(tables, backbone.denoise(x_t, timesteps, condition), latents, noise, timesteps)


def decide(scores: Tensor) -> dict[str, int]:
    """Mean scores per candidate [K, ..., 4] (timesteps, trials are averaged) -> the winner's row under each rule."""
    means = scores.double().flatten(1, -2).mean(1)  # [K, 4]
    return {name: int(means[:, list(columns)].sum(1).argmin()) for name, columns in DECISIONS.items()}
