"""All that is special to `UNet2DConditionModel` (Stable Diffusion 1.x, 2.x, SDXL): how to call it, where to tap it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.base import height_and_width
from perception.backbones.spec import TapKind
from perception.backbones.taps import first_part

_PATTERNS: tuple[tuple[str, TapKind], ...] = (
    (r"(down|up)_blocks\.\d+|mid_block", "block"),
    (r".*\.resnets\.\d+", "residual_block"),
    (r".*\.attentions\.\d+", "transformer_block"),
)
_RESIDUAL = "residual "  # of control networks, in Condition.extra


class UNetDenoiser:
    """Adapter of `diffusers.UNet2DConditionModel`."""

    module: Any

    def __init__(self, unet: nn.Module) -> None:
        self.module = unet
        config: Any = unet.config
        self.config = config
        self.latent_channels: int = config["in_channels"]
        self.training_size = height_and_width(config.get("sample_size"))  # a control network has none
        self.text_width: int = config["cross_attention_dim"]

    @property
    def is_xl(self) -> bool:
        """Whether the time embedding also takes pooled text and image sizes (SDXL)."""
        return self.config["addition_embed_type"] == "text_time"

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """One forward, with the control residuals of the condition (`with_residuals`) where it has them."""
        residuals = [value for key, value in condition.extra.items() if key.startswith(_RESIDUAL)]
        return self.module(
            x_t,
            model_time,
            encoder_hidden_states=condition.hidden,
            added_cond_kwargs=self.added(x_t, condition, stride),
            down_block_additional_residuals=residuals[:-1] or None,
            mid_block_additional_residual=residuals[-1] if residuals else None,
            return_dict=False,
        )[0]

    def added(self, x_t: Tensor, condition: Condition, stride: int) -> dict[str, Any] | None:
        """SDXL's micro-conditions, by default "an uncropped image of this size"; None for others."""
        if not self.is_xl:
            return None
        return {"text_embeds": condition.pooled, "time_ids": self._time_ids(x_t, condition, stride)}

    def skeleton(self) -> UNetDenoiser:
        """The same UNet on the meta device."""
        with torch.device("meta"):
            return UNetDenoiser(type(self.module).from_config(self.config))

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """A latent of eight cells at the coarsest level."""
        weight = next(self.module.parameters())
        side = 8 * 2 ** len(self.config["block_out_channels"])
        width = self.config["cross_attention_dim"]
        pooled = weight.new_zeros(1, self._pooled_width()) if self.is_xl else None
        condition = Condition(weight.new_zeros(1, tokens, width), pooled)
        time = torch.zeros(1, dtype=torch.long, device=weight.device)
        return weight.new_zeros(1, self.latent_channels, side, side), time, condition

    def check_size(self, height: int, width: int) -> None:
        """Any size: levels halve with rounding up."""

    def image_tokens(self, height: int, width: int) -> int:
        """Every cell is one."""
        return height * width

    def tap_modules(self) -> Mapping[str, tuple[nn.Module, TapKind]]:
        """Blocks, residual blocks, transformers and the attentions inside them."""
        return self._tap_modules

    @cached_property
    def _tap_modules(self) -> Mapping[str, tuple[nn.Module, TapKind]]:
        return {name: (module, kind) for name, module in self.module.named_modules() if (kind := _kind(name, module))}

    def feature_of(self, output: Any) -> Tensor:
        """The hidden states, which come before skip connections."""
        return first_part(output)

    def final_modules(self) -> list[nn.Module]:
        """The final norm and convolution."""
        return [module for module in (self.module.conv_norm_out, self.module.conv_out) if module is not None]

    def query_modules(self) -> list[nn.Module]:
        """Query and key projections of every cross-attention, and the norm before it."""
        found: list[nn.Module] = []
        for name, (module, kind) in self.tap_modules().items():
            if kind == "cross_attention":
                attended: Any = module
                block, _, attention = name.rpartition(".")  # attn1 is behind norm1, attn2 behind norm2
                norm = self.module.get_submodule(f"{block}.norm{attention[-1]}")
                found += [norm, attended.to_q, attended.to_k]
        return found

    def _pooled_width(self) -> int:
        return self.config["projection_class_embeddings_input_dim"] - 6 * self.config["addition_time_embed_dim"]

    def _time_ids(self, x_t: Tensor, condition: Condition, stride: int) -> Tensor:
        """(original h, w, crop top, left, target h, w) in pixels (Podell et al. 2023, section 2.2), [B, 6]."""
        if "time_ids" in condition.extra:
            return condition.extra["time_ids"]
        height, width = x_t.shape[-2] * stride, x_t.shape[-1] * stride
        return x_t.new_tensor([height, width, 0, 0, height, width]).expand(len(x_t), 6)


def with_residuals(condition: Condition, down: Sequence[Tensor], middle: Tensor) -> Condition:
    """The condition with control residuals [N, C, h, w]: of the skip connections in order, and of the middle block."""
    added = {f"{_RESIDUAL}{number}": value for number, value in enumerate([*down, middle])}
    return replace(condition, extra={**condition.extra, **added})


def _kind(name: str, module: nn.Module) -> TapKind | None:
    for pattern, kind in _PATTERNS:
        if re.fullmatch(pattern, name):
            return kind
    if re.fullmatch(r".*\.transformer_blocks\.\d+\.attn\d", name):
        return "cross_attention" if module.is_cross_attention else "self_attention"
    return None
