"""The scale-invariant logarithmic loss of depth."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.metrics.depth import check_same_size


def silog_loss(
    prediction: Tensor,  # metres, positive, [B, 1, H, W] or [B, H, W]
    target: Tensor,  # metres, the same shape; pixels with 0 have no measurement
    *,
    variance_focus: float = 0.5,  # lambda: 0 = root mean square log error, 1 = invariant to scale
    reduction: Literal["batch", "image"] = "batch",  # pool all pixels (VPD), or average the images' losses (mmseg)
) -> Tensor:
    """sqrt(mean d^2 - lambda mean(d)^2), d = ln g - ln p over pixels with g > 0 (Eigen et al. 2014, eq. 4).

    An image without any measurement is left out; if none has one the loss is 0. Predictions below 1e-6 m count as
    1e-6 m, and the root starts at 1e-6, where its slope would be infinite.

    Raises:
        UserError: prediction and target differ in size.
    """
    check_tensors(prediction=prediction, target=target)
    check_same_size(prediction, target)
    valid = (target > 0).flatten(1)
    truth, guess = torch.where(valid, target.flatten(1).float(), 1.0), prediction.flatten(1).float()
    ratio = truth.log() - guess.clamp(min=1e-6).log()  # [B, H*W]
    groups = [ratio[valid]] if reduction == "batch" else [row[kept] for row, kept in zip(ratio, valid, strict=True)]
    squares = [d.square().mean() - variance_focus * d.mean().square() for d in groups if len(d)]
    losses = [square.clamp(min=1e-12).sqrt() for square in squares]
    return torch.stack(losses).mean() if losses else 0.0 * prediction.sum()
