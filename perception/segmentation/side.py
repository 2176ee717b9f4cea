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

    Its maps join those of the pyramid that have their strides; finer ones, down to `finest`, come before the pyramid.

    Raises:
        UserError: a model that timm does not have, or one without a map at any of the strides.
    """

    def __init__(
        self,
        name: str,  # timm model
        strides: Sequence[int],  # of the pyramid, finest first, in pixels
        finest: int | None = None,  # stride of the finest map of its own; None: it has none of its own
    ) -> None:
        super().__init__()
        found = timm_features(name).feature_info.reduction()
        last = {stride: level for level, stride in enumerate(found)}
        own = [stride for stride in last if (finest or strides[0]) <= stride < strides[0]]
        self.strides = (*sorted(own), *strides)
        levels = {level: self.strides.index(stride) for stride, level in last.items() if stride in self.strides}
        if not levels:
            raise UserError(f"side {name!r} has maps at strides {found}, none of the pyramid's {list(strides)}")
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
        parts: list[list[Tensor]] = [[] for _ in range(self._own)] + [[value] for value in maps]
        for level, value in zip(self._levels, self.encoder(images), strict=True):
            parts[level].append(value)
        return tuple(torch.cat(values, dim=1) for values in parts)
