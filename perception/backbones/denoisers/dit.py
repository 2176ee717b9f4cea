"""All that is special to `DiTTransformer2DModel` (class-conditional DiT): how to call it, where to tap it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.transformer import TransformerDenoiser
from perception.backbones.spec import TapKind
from perception.errors import UserError


class DiTDenoiser(TransformerDenoiser):
    """Adapter of `diffusers.DiTTransformer2DModel` (Peebles & Xie 2023): the class enters every block through adaLN."""

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """One forward with the labels as they are: nothing is dropped, nothing is guided."""
        labels = condition.extra.get("class_labels")
        if labels is None:
            raise UserError("a class-conditional backbone needs class labels; make the condition with its condition()")
        return self.module(x_t, timestep=model_time, class_labels=labels, return_dict=False)[0]

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """A latent of the size of the training."""
        side, numbers = self.config["sample_size"], self.zeros(1, dtype=torch.long)
        condition = Condition(self.zeros(1, tokens, 0), extra={"class_labels": numbers})
        return self.zeros(1, self.latent_channels, side, side), numbers, condition

    def check_size(self, height: int, width: int) -> None:
        """Squares that the patches divide: the transformer rebuilds its output as a square."""
        if height != width or height % self.patch:
            raise UserError(
                f"latents of {height}x{width} cells do not fit this DiT, which takes squares whose side is a multiple "
                f"of {self.patch}; crop the images to squares (its training: {self.config['sample_size']} cells)"
            )

    def attentions_of(self, block: Any) -> dict[str, tuple[nn.Module, TapKind]]:
        """The self-attention."""
        return {"attn1": (block.attn1, "self_attention")}

    def final_modules(self) -> list[nn.Module]:
        """The final projections."""
        return [self.module.proj_out_1, self.module.proj_out_2]


def settle_time_embedding(transformer: nn.Module, shift: float | None) -> None:
    """Give every block the time frequencies that its weights were trained with.

    exp(-ln(10000) i / (128 - shift)), i = 0..127: the original DiT has shift 0, diffusers builds 1, and a checkpoint of
    the one read with the other is 1 to 2 % off. `shift` is what the folder says ("downscale_freq_shift" in
    transformer/config.json). Where it says nothing, the weights tell: the original has one time and label embedding,
    which the conversion copied into every block, so blocks that agree in every bit come from there; a model trained
    in diffusers has embeddings of its own in every block.
    """
    blocks: Any = transformer.transformer_blocks
    if shift is None:
        shift = 0.0 if _is_converted(blocks) else 1.0
    for block in blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift


def _is_converted(blocks: Any) -> bool:
    first, *others = (dict(block.norm1.emb.named_parameters()) for block in blocks)
    return bool(others) and all(torch.equal(value, other[key]) for other in others for key, value in first.items())
