"""The four scores of a DiT with learned variance, against independent computations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from perception.backbones import DiffusionBackbone, Prediction, VariancePreservingPath
from perception.classification.dit_scores import (
    PosteriorTables,
    decide,
    discretized_log_likelihood,
    dit_scores,
    gaussian_kl,
    score_predictions,
)
from perception.errors import UserError

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
STEPS = torch.tensor([0, 1, 500, 999])


@pytest.fixture()
def sample() -> tuple[PosteriorTables, Prediction, Tensor, Tensor]:
    """Tables, a random prediction at four timesteps, x0 and noise."""
    scheduler = DDPMScheduler(**LINEAR)
    path = VariancePreservingPath(scheduler.alphas_cumprod, "epsilon", scheduler.betas)
    generator = torch.Generator().manual_seed(0)
    x0, noise, out, variance = torch.randn(4, 4, 4, 8, 8, generator=generator)
    alpha, sigma = path.alpha(STEPS).view(-1, 1, 1, 1), path.sigma(STEPS).view(-1, 1, 1, 1)
    x_t = alpha * x0 + sigma * noise
    return PosteriorTables(path.betas), Prediction(out, "epsilon", x_t, alpha, sigma, variance.tanh()), x0, noise


def test_variance_and_mean_are_those_of_the_scheduler(sample) -> None:
    """DDPM's own step with learned_range variance: its mean and its log variance."""
    tables, prediction, x0, _ = sample
    scheduler = DDPMScheduler(**LINEAR, variance_type="learned_range", clip_sample=False)
    for row, t in enumerate(STEPS.tolist()):
        log_variance = scheduler._get_variance(t, predicted_variance=prediction.variance[row])
        low, high = (tables.take(table, STEPS, x0)[row] for table in (tables.log_variance, tables.log_betas))
        fraction = (prediction.variance[row] + 1) / 2
        if t > 0:  # at t = 0 the scheduler clamps the variance, the bound takes that of t = 1
            torch.testing.assert_close(fraction * high + (1 - fraction) * low, log_variance, rtol=1e-4, atol=1e-4)
    step = scheduler.step(torch.cat([prediction.raw, prediction.variance], 1)[:1], 0, prediction.x_t[:1])
    estimate = tables.inverse_signal[0] * prediction.x_t[:1] - tables.noise_ratio[0] * prediction.raw[:1]
    expected = tables.mean(estimate.float(), prediction.x_t[:1], STEPS[:1])
    torch.testing.assert_close(expected, step.prev_sample, rtol=1e-3, atol=1e-3)


def test_scores(sample) -> None:
    tables, prediction, x0, noise = sample
    scores = score_predictions(tables, prediction, x0, noise, STEPS)
    difference = noise - prediction.raw
    assert scores.four.shape == (4, 4) and scores.spatial.shape == (4, 8, 8)
    torch.testing.assert_close(scores.four[:, 0], difference.square().mean((1, 2, 3)))
    torch.testing.assert_close(scores.four[:, 1], difference.abs().mean((1, 2, 3)))
    torch.testing.assert_close(scores.spatial.mean((1, 2)), scores.four[:, 0])
    assert (scores.four[:, 2] >= 0).all(), "a divergence"
    perfect = Prediction(noise, "epsilon", prediction.x_t, prediction.alpha, prediction.sigma, -torch.ones_like(noise))
    best = score_predictions(tables, perfect, x0, noise, STEPS)
    torch.testing.assert_close(best.four[1:, :3], torch.zeros(3, 3), atol=1e-4, rtol=0)


def test_kl_is_that_of_torch() -> None:
    m1, v1, m2, v2 = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    first, second = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in ((m1, v1), (m2, v2)))
    torch.testing.assert_close(gaussian_kl(m1, v1, m2, v2), torch.distributions.kl_divergence(first, second))


def test_likelihood_is_a_distribution_over_the_bins() -> None:
    """Over 8-bit values in [-1, 1] the masses sum to 1, and they are those of the normal distribution."""
    x = torch.arange(256) / 127.5 - 1
    mean, log_scale = torch.full_like(x, 0.1), torch.full_like(x, math.log(0.2))
    mass = discretized_log_likelihood(x, mean, log_scale).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    normal = torch.distributions.Normal(0.1, 0.2)
    exact = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    torch.testing.assert_close(mass[1:-1], exact[1:-1], atol=2e-4, rtol=0.1)


def test_decisions_average_over_timesteps_and_trials() -> None:
    scores = torch.zeros(3, 2, 2, 4)  # candidates, timesteps, trials
    scores[..., 0] = torch.tensor([1.0, 2, 3]).view(3, 1, 1)
    scores[..., 1] = torch.tensor([3.0, 2, 1]).view(3, 1, 1)
    scores[..., 2] = torch.tensor([9.0, 1, 5]).view(3, 1, 1)
    scores[1, 0, :, 2], scores[1, 1, :, 2] = 0, 2
    scores[..., 3] = torch.tensor([0.0, -1e6, 0]).view(3, 1, 1)
    assert decide(scores) == {"L2": 0, "L1": 2, "VLB": 1, "L2+VLB": 1}


def test_models_without_variance_or_chain(tiny_backbone: DiffusionBackbone, tiny_sd: Path) -> None:
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match="predicts no variance, so it has no variational scores; use the l2 or l1 loss"):
        dit_scores(tiny_backbone, x, x, torch.tensor([5]), tiny_backbone.condition([""]))
