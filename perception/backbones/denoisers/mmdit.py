"""All that is special to the transformers in which text and image attend jointly: Stable Diffusion 3, 3.5 and Flux."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.transformer import TransformerDenoiser
from perception.backbones.spec import TapKind
from perception.errors import UserError

FLUX_SIZE = (128, 128)  # cells of its training, 1024 x 1024 pixels: no config tells
GUIDANCE = 1.0  # guidance input of guidance-distilled Flux: the plain conditional velocity, the target of its training


class SD3Denoiser(TransformerDenoiser):
    """Adapter of `diffusers.SD3Transformer2DModel` (Esser et al. 2024): text and image attend jointly."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        self.text_width = self.config["joint_attention_dim"]

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """One forward; the time is 1000 s and stays float32, whatever the dtype of the weights."""
        return self.module(
            x_t,
            encoder_hidden_states=condition.hidden,
            pooled_projections=condition.pooled,
            timestep=model_time,
            return_dict=False,
        )[0]

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """A latent of the size of the training, as far as the position table reaches."""
        side = min(self.config["sample_size"], self.config["pos_embed_max_size"] * self.patch)
        condition = Condition(
            self.zeros(1, tokens, self.text_width), self.zeros(1, self.config["pooled_projection_dim"])
        )
        return self.zeros(1, self.latent_channels, side, side), self.zeros(1), condition

    def check_size(self, height: int, width: int) -> None:
        """Sides that the patches divide and the position table covers."""
        super().check_size(height, width)
        most = self.config["pos_embed_max_size"] * self.patch
        if max(height, width) > most:
            raise UserError(
                f"latents of {height}x{width} cells are larger than this transformer's position table of {most}x{most} "
                "cells; resize the images"
            )


class FluxDenoiser(TransformerDenoiser):
    """Adapter of `diffusers.FluxTransformer2DModel` (Black Forest Labs 2024).

    Four latent cells in a square are one token. Positions are (0, row, column), text stands at (0, 0, 0).
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        self.patch = 2  # the pipeline packs cells, the transformer's own patch_size is 1
        self.latent_channels = self.config["in_channels"] // self.patch**2
        self.training_size = FLUX_SIZE
        self.text_width = self.config["joint_attention_dim"]

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """One forward at time s = model_time / 1000; `condition.extra["guidance"]` [B] replaces GUIDANCE."""
        height, width = (side // self.patch for side in x_t.shape[-2:])
        guidance = condition.extra.get("guidance", x_t.new_full((len(x_t),), GUIDANCE))
        out = self.module(
            pack(x_t),
            encoder_hidden_states=condition.hidden,
            pooled_projections=condition.pooled,
            timestep=model_time / 1000,
            img_ids=positions(height, width).to(x_t),
            txt_ids=x_t.new_zeros(condition.hidden.shape[1], 3),
            guidance=guidance if self.config["guidance_embeds"] else None,
            return_dict=False,
        )[0]
        return unpack(out, height, width)

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """A latent of 8 x 8 tokens."""
        condition = Condition(
            self.zeros(1, tokens, self.text_width), self.zeros(1, self.config["pooled_projection_dim"])
        )
        return self.zeros(1, self.latent_channels, 8 * self.patch, 8 * self.patch), self.zeros(1), condition

    def tap_modules(self) -> Mapping[str, tuple[nn.Module, TapKind]]:
        """The double-stream blocks, then the single-stream ones."""
        single = self.module.single_transformer_blocks
        found: dict[str, tuple[nn.Module, TapKind]] = {
            f"single_transformer_blocks.{i}": (block, "transformer_block") for i, block in enumerate(single)
        }
        return {**super().tap_modules(), **found}


def pack(latents: Tensor) -> Tensor:
    """[B, C, 2h, 2w] -> tokens [B, h*w, 4C] in raster order, channels of a cell slowest."""
    squares = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, h, 2, w, 2]
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for height x width tokens."""
    squares = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # [B, h, w, C, 2, 2]
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(height: int, width: int) -> Tensor:
    """(0, row, column) of every image token, [height*width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
