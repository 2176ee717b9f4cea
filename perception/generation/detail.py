"""Transfers the detail of a label map's own photograph: small things that the autoencoder cannot draw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CONTRAST = 4  # windows of the contrast are so many times as large


def transfer_detail(
    generated: Tensor,  # [B, 3, H, W] in [0, 1]: the light and colours
    photo: Tensor,  # [B, 3, H, W] in [0, 1]: the detail, of the same layout
    coded: Tensor,  # [B, 3, H, W]: the photo as the autoencoder gives it back, as blurred as `generated`
    radius: int,  # of the square windows, pixels
    ridge: float = 0.01,  # variance of colours; where `coded` has less, the contrast of the surroundings decides
) -> Tensor:
    """`photo` in the light of `generated`, float32 [B, 3, H, W] in [0, 1].

    In every window the affine map of colours (3 x 3, and an offset) that takes `coded` to `generated` best is fitted
    by ridge regression; the maps are averaged over the windows of a pixel and applied to `photo`. This is the guided
    filter with a colour guide (He, Sun & Tang, ECCV 2010), its coefficients applied to a sharper guide (He & Sun, Fast
    Guided Filter, arXiv 1505.00996). Haze, darkness and tints are such maps, so they are carried over whole. The ridge
    draws the map not to zero but to the ratio of contrasts in a window four times as large: what was drawn wrongly, or
    not at all, stays as visible as its surroundings.
    """
    # float64: variances are small differences of large means
    generated, photo, coded = generated.double(), photo.double(), coded.double()
    mean_in, mean_out = _box(coded, radius), _box(generated, radius)
    variance = _box(_products(coded, coded), radius) - _products(mean_in, mean_in)
    covariance = _box(_products(coded, generated), radius) - _products(mean_in, mean_out)
    eye = torch.eye(3, dtype=variance.dtype, device=variance.device)
    prior = _contrast(generated, coded, _CONTRAST * radius).unflatten(1, (1, 1))  # [B, 1, 1, H, W]
    left, right = (
        part.unflatten(1, (3, 3)).permute(0, 3, 4, 1, 2) for part in (variance, covariance)
    )  # [B, H, W, in, in | out]
    slope = torch.linalg.solve(left + ridge * eye, right + ridge * prior.permute(0, 3, 4, 1, 2) * eye)
    slope = slope.permute(0, 3, 4, 1, 2)  # [B, in, out, H, W]
    offset = mean_out - (slope * mean_in[:, :, None]).sum(1)
    slope = _box(slope.flatten(1, 2), radius).unflatten(1, (3, 3))
    return ((slope * photo[:, :, None]).sum(1) + _box(offset, radius)).clamp(0, 1).float()


def _contrast(generated: Tensor, coded: Tensor, radius: int, least: float = 1e-4, most: float = 1.5) -> Tensor:
    """Standard deviation of `generated` over that of `coded`, [B, 1, H, W]."""
    over, under = (
        _box((image - _box(image, radius)).square().mean(1, keepdim=True), radius) + least
        for image in (generated, coded)
    )
    return (over / under).sqrt().clamp(max=most)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """All products of two colours, [B, 9, H, W]."""
    return (one[:, :, None] * other[:, None]).flatten(1, 2)


def _box(image: Tensor, radius: int) -> Tensor:
    """Mean over windows of side 2 radius + 1, cut off at the borders; [B, C, H, W]."""
    return F.avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
