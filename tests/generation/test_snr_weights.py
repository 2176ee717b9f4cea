"""Weights of the training rows by their signal-to-noise ratio."""

import torch

from perception.backbones import DiffusionBackbone
from perception.generation.training import snr_weights, weighted_error


def test_bounds_hold_for_the_error_of_x0(tiny_backbone: DiffusionBackbone) -> None:
    path, t = tiny_backbone.noise_path, torch.tensor([1, 500, 999])
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    weights = snr_weights(path, t, (0.25, 5.0))
    assert torch.allclose(weights * snr, snr.clamp(0.25, 5.0))  # the noise error is snr times the error of x_0
    assert torch.allclose(snr_weights(path, t, (0.0, float("inf"))), torch.ones(3, dtype=weights.dtype))


def test_weights_of_one_leave_the_mean_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn((2, 3, 4, 5, 5), generator=generator)
    plain = weighted_error(prediction, target, None)
    assert torch.allclose(weighted_error(prediction, target, torch.ones(3)), plain)
    assert weighted_error(prediction, target, torch.tensor([0.0, 0.0, 0.0])) == 0
