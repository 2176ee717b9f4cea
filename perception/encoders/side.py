"""A small encoder trained from scratch beside a frozen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import drop_path
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

    Its maps join those of the pyramid that have their strides; ones that are finer than the pyramid come before it. In
    training the pyramid of a share of the images is zero, so that the encoder learns what the pyramid, which is good
    from the first step on, would not let it learn (ModDrop, Neverova et al. 2016).

    Raises:
        UserError: a model that timm does not have, or one without a map at any of the strides.
    """

    def __init__(
        self,
        name: str,  # timm model
        pyramid: Sequence[int],  # strides of the frozen maps, finest first, in pixels
        strides: Sequence[int] = (4, 8, 16),  # of its maps
        drop: float = 0.5,  # share of the training images whose frozen maps are zero
    ) -> None:
        super().__init__()
        self.drop = drop
        found = timm_features(name).feature_info.reduction()
        last = {stride: level for level, stride in enumerate(found) if stride in strides}
        own = sorted(stride for stride in last if stride < pyramid[0])
        self.strides = (*own, *pyramid)
        levels = {level: self.strides.index(stride) for stride, level in last.items() if stride in self.strides}
        if not levels:
            raise UserError(f"side {name!r} has maps at strides {found}, none of the pyramid's {list(pyramid)}")
        self.encoder = timm_features(name, out_indices=list(levels))
        self._levels = tuple(levels.values())  # of `strides`, that the encoder's maps belong to
        widths = dict(zip(self._levels, self.encoder.feature_info.channels(), strict=True))
        self._channels = tuple(widths.get(level, 0) for level in range(len(self.strides)))
        self._own = len(own)

    def joined(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Channels of the maps that `forward` returns, at `strides`, from those of the pyramid."""
        pyramid = (*(0,) * self._own, *channels)
        return tuple(mine + theirs for mine, theirs in zip(self._channels, pyramid, strict=True))

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps [B, C, h, w] of the pyramid, with its own of RGB images [B, 3, H, W] in [0, 1] before and behind."""
        kept = drop_path(images.new_ones(len(images), 1, 1, 1), self.drop, self.training, scale_by_keep=False)
        parts: list[list[Tensor]] = [[] for _ in range(self._own)] + [[value * kept] for value in maps]
        for level, value in zip(self._levels, self.encoder(images), strict=True):
            parts[level].append(value)
        return tuple(torch.cat(values, dim=1) for values in parts)


def beside(
    name: str | None, strides: tuple[int, ...], channels: tuple[int, ...]
) -> tuple[SideNetwork | None, tuple[int, ...], tuple[int, ...]]:
    """The side network of a pyramid (None: none), and strides and channels of the maps of both."""
    if name is None:
        return None, strides, channels
    side = SideNetwork(name, strides)
    return side, side.strides, side.joined(channels)
