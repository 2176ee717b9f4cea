"""All that is special to `PixArtTransformer2DModel` (PixArt-alpha and -sigma): how to call it, where to tap it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.transformer import TransformerDenoiser
from perception.backbones.spec import TapKind


class PixArtDenoiser(TransformerDenoiser):
    """Adapter of `diffusers.PixArtTransformer2DModel` (Chen et al. 2023).

    Time modulates the blocks (adaLN-single), text enters through cross-attention.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        self.text_width = self.config["caption_channels"]

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """One forward; padding tokens are masked. Size conditions say "an image of this size"."""
        return self.module(
            x_t,
            encoder_hidden_states=condition.hidden,
            encoder_attention_mask=condition.extra.get("mask"),
            timestep=model_time,
            added_cond_kwargs=self._sizes(x_t, stride),
            return_dict=False,
        )[0]

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """A latent of the size of the training."""
        side = self.config["sample_size"]
        time, condition = self.zeros(1, dtype=torch.long), Condition(self.zeros(1, tokens, self.text_width))
        return self.zeros(1, self.latent_channels, side, side), time, condition

    def attentions_of(self, block: Any) -> dict[str, tuple[nn.Module, TapKind]]:
        """Self-attention, then cross-attention."""
        return {"attn1": (block.attn1, "self_attention"), "attn2": (block.attn2, "cross_attention")}

    def _sizes(self, x_t: Tensor, stride: int) -> dict[str, Tensor | None]:
        """Height and width in pixels [B, 2] and their ratio [B, 1], where the transformer was trained with them."""
        if not self.module.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        rows, height, width = len(x_t), x_t.shape[-2] * stride, x_t.shape[-1] * stride
        return {
            "resolution": x_t.new_tensor([height, width]).expand(rows, 2),
            "aspect_ratio": x_t.new_tensor([height / width]).expand(rows, 1),
        }
