"""VPD's referring decoder and its weighted loss: a pyramid to two-class logits, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import UserError


class ReferringDecoder(nn.Module):
    """Pyramid -> logits [B, 2, h, w] (background, foreground) at the size of the finest map.

    From the coarsest map on: bilinear to the next finer one (corners aligned), concatenate, twice a 3x3 convolution
    with BatchNorm and ReLU; at last a 1x1 convolution (Yang et al. 2022, LAVT, section 3.4).
    """

    def __init__(
        self,
        channels: Sequence[int],  # of the maps, finest first
        hidden: int | None = None,  # width of all stages; None: half the channels of the coarsest map
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise UserError(f"the referring decoder needs two maps or more, finest first, but got {tuple(channels)}")
        hidden = hidden or channels[-1] // 2
        below = [channels[-1]] + [hidden] * (len(channels) - 2)
        self.stages = nn.ModuleList(
            _stage(x + y, hidden) for x, y in zip(below, reversed(channels[:-1]), strict=True)
        )  # coarse to fine
        self.classifier = nn.Conv2d(hidden, 2, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits [B, 2, h, w] of maps given finest first."""
        x = features[-1]
        for stage, finer in zip(self.stages, reversed(features[:-1]), strict=True):
            if x.shape[-2:] != finer.shape[-2:]:
                x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=True)
            x = stage(torch.cat([x, finer], dim=1))
        return self.classifier(x)


def _stage(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
    )


def referring_loss(
    logits: Tensor,  # [B, 2, H, W]
    target: Tensor,  # [B, H, W], 0 = background, 1 = referred to
    weights: tuple[float, float] = (0.9, 1.1),  # of background and foreground
) -> Tensor:
    """Cross-entropy with class weights, weighted mean: sum w_y CE / sum w_y over all pixels of the batch.

    Raises:
        UserError: the target has another size or values other than 0 and 1.
    """
    if target.shape != (len(logits), *logits.shape[2:]):
        raise UserError(
            f"the target mask has shape {tuple(target.shape)} but the logits {tuple(logits.shape)}; "
            "resize the mask to the image with nearest neighbours"
        )
    if bool(((target != 0) & (target != 1)).any()):
        raise UserError(f"the target mask holds values up to {target.max().item()}; expected 0 and 1")
    return F.cross_entropy(logits.float(), target.long(), logits.new_tensor(weights, dtype=torch.float32))
