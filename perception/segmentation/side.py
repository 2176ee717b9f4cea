"""A small encoder trained from scratch beside a frozen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from perception.errors import UserError


def timm_features(name: str, **options: Any) -> Any:
    """A timm model with random weights that returns its maps, finest first; `feature_info` describes them.

    Raises:
        UserError: timm has no such model.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:4]) or "resnet18"
        raise UserError(f"timm has no model {name!r}; expected one such as {near}")
    return timm.create_model(name, pretrained=False, features_only=True, **options)


class SideNetwork(nn.Module):
    """A small encoder trained beside the frozen one, of the detail that it drops (Side-Tuning, Zhang et al. 2020).

    Raises:
        UserError: a model that timm does not have, or one without a map at any of the strides.
    """

    def __init__(self, name: str, strides: Sequence[int]) -> None:  # timm model; strides of the pyramid, in pixels
        super().__init__()
        found = timm_features(name).feature_info.reduction()
        last = {stride: level for level, stride in enumerate(found)}
        levels = {level: strides.index(stride) for stride, level in last.items() if stride in strides}
        if not levels:
            raise UserError(f"side {name!r} has maps at strides {found}, none of the pyramid's {list(strides)}")
        self.encoder = timm_features(name, out_indices=list(levels))
        self._levels = tuple(levels.values())  # of the pyramid, that the encoder's maps join
        widths = dict(zip(self._levels, self.encoder.feature_info.channels(), strict=True))
        self.channels = tuple(widths.get(level, 0) for level in range(len(strides)))

    def joined(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Channels of the maps that `forward` returns, from those of the pyramid."""
        return tuple(mine + theirs for mine, theirs in zip(self.channels, channels, strict=True))

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps [B, C, h, w] with those of RGB images [B, 3, H, W] in [0, 1] appended where the strides are equal."""
        joined = list(maps)
        for level, value in zip(self._levels, self.encoder(images), strict=True):
            joined[level] = torch.cat([joined[level], value], dim=1)
        return tuple(joined)
