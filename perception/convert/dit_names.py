"""The names and shapes of the original DiT checkpoints (facebookresearch/DiT) in the layout of diffusers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perception.errors import UserError

_BLOCK: Mapping[str, tuple[str, ...]] = {  # original -> diffusers, inside a block; the attention's three are stacked
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm1.linear",),
}
_COPIED: Mapping[str, str] = {  # one layer of the original -> a copy in every block
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
_OUTER: Mapping[str, str] = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # DiT-XL, -L, -B, -S (Peebles & Xie 2023, table 1)


def dit_config(weights: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """The configuration of `DiTTransformer2DModel`, read from the shapes of an original checkpoint.

    Args:
        weights: state dict in the original names.
        heads: attention heads, which no shape tells; default: those of the published width.

    Raises:
        UserError: when these are not the weights of a DiT, or of a width without published heads.
    """
    needed = ("x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.weight")
    if absent := [key for key in needed if key not in weights]:
        raise UserError(f"these are no weights of an original DiT: {', '.join(absent)} is missing")
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    heads = heads or _HEADS.get(width)
    if heads is None or width % heads:
        raise UserError(f"a DiT of width {width} is none of the published ones; give its number of attention heads")
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": len(weights["final_layer.linear.weight"]) // patch**2,
        "num_layers": _depth(weights),
        "sample_size": math.isqrt(weights["pos_embed"].shape[1]) * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": len(weights["y_embedder.embedding_table.weight"]) - 1,  # the last row is the null class
    }


def dit_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in the names of diffusers. `pos_embed`, a fixed sine-cosine table, is made by the model itself.

    Raises:
        UserError: listing every key that is no part of a DiT.
    """
    found: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        names = _names(key, _depth(weights))
        if names is None:
            unknown.append(key)
        elif names:
            stacked = ".attn.qkv." in key
            parts = value.chunk(3) if stacked else [value] * len(names)
            found.update({name: part.clone() for name, part in zip(names, parts, strict=True)})
    if unknown:
        raise UserError(f"unexpected keys in a DiT checkpoint: {', '.join(sorted(unknown))}")
    return found


def check_positions(weights: Mapping[str, Tensor], positions: Tensor) -> None:
    """UserError unless the checkpoint's position table is the one that diffusers makes, [1, N, width]."""
    table = weights["pos_embed"]
    if table.shape != positions.shape or not torch.allclose(table, positions.to(table), atol=1e-5):
        raise UserError("the checkpoint's pos_embed is not the sine-cosine table of DiT, so diffusers cannot run it")


def _depth(weights: Mapping[str, Tensor]) -> int:
    return 1 + max((int(found[1]) for key in weights if (found := re.match(r"blocks\.(\d+)\.", key))), default=-1)


def _names(key: str, depth: int) -> list[str] | None:
    """The names that one original key stands for; None: it is unknown."""
    if key == "pos_embed":
        return []
    layer, _, part = key.rpartition(".")  # part: weight or bias
    if layer in _OUTER:
        return [f"{_OUTER[layer]}.{part}"]
    if layer in _COPIED:
        return [f"transformer_blocks.{i}.{_COPIED[layer]}.{part}" for i in range(depth)]
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
    if found and found[2] in _BLOCK:
        return [f"transformer_blocks.{found[1]}.{name}.{part}" for name in _BLOCK[found[2]]]
    return None
