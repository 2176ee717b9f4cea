"""Control experiments: a convolutional encoder trained from scratch in the place of the diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.shared import SharedBackbone
from perception.conditioning import Sentences
from perception.encoders.side import timm_features
from perception.errors import UserError


class TimmEncoder(nn.Module):
    """The last four maps of a timm model with random initial weights; all of it is trained.

    Raises:
        UserError: timm has no such model, or it gives fewer than four maps.
    """

    def __init__(self, name: str = "resnet18") -> None:  # a timm model with features_only
        super().__init__()
        self.net = timm_features(name)
        info = self.net.feature_info
        if len(info.channels()) < 4:
            raise UserError(f"timm's {name!r} gives {len(info.channels())} maps, and the heads need 4; take resnet18")
        self.channels: tuple[int, ...] = tuple(info.channels()[-4:])
        self.strides: tuple[int, ...] = tuple(info.reduction()[-4:])

    def forward(self, images: Tensor, given: Sequence[Any] | None = None) -> tuple[Tensor, ...]:
        """Maps, finest first, of RGB images [B, 3, H, W] in [0, 1]; `given` is not read."""
        return tuple(self.net(images * 2 - 1)[-4:])


class TimmTextEncoder(TimmEncoder):
    """`TimmEncoder` whose maps carry the sentence: its embedding, the same in every cell, behind their channels.

    The text is encoded by the frozen text encoder of a diffusion backbone: the last hidden state at the first end
    token.
    """

    def __init__(
        self,
        name: str,  # a timm model
        backbone: DiffusionBackbone,  # gives the text encoder
        length: int | None = None,  # tokens per sentence; None: all that the text encoder takes
        truncate: bool = False,  # cut sentences that are too long instead of raising
    ) -> None:
        super().__init__(name)
        self._holder = SharedBackbone(backbone)
        self.conditioning = Sentences(backbone, length, truncate=truncate)
        self.channels = tuple(channels + self.conditioning.width for channels in self.channels)

    @property
    def backbone(self) -> DiffusionBackbone:
        """The diffusion model whose text encoder is read."""
        return self._holder.backbone

    def forward(self, images: Tensor, given: Sequence[str] | None = None) -> tuple[Tensor, ...]:
        """Maps, finest first, of RGB images [B, 3, H, W] in [0, 1] and one sentence per image."""
        text = self._embedding(given).to(images.device)[:, :, None, None]  # [B, D, 1, 1]
        return tuple(torch.cat([x, text.expand(-1, -1, *x.shape[-2:])], dim=1) for x in super().forward(images))

    @torch.no_grad()
    def _embedding(self, given: Sequence[str] | None) -> Tensor:
        hidden = self.conditioning(given)  # [B, L, D]
        lengths = [len(ids) for ids in self.backbone.tokenizer(list(given or ()), verbose=False)["input_ids"]]
        ends = torch.tensor(lengths, device=hidden.device).clamp(max=hidden.shape[1]) - 1
        return hidden[torch.arange(len(ends), device=hidden.device), ends]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TimmTextEncoder:
        self._holder.apply(fn)
        return super()._apply(fn, recurse)
