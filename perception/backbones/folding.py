"""Exact savings of a denoiser that is asked at one timestep, or with one text token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.memory import RowMemory
from perception.backbones.sharing import TextRows, standing_in, wants_gradient


class FoldedTime:
    """The forward of a layer of the time embedding that remembers its output per timestep.

    Only a batch with a single timestep is answered from memory, and only where no gradient is wanted.
    """

    def __init__(self, layer: nn.Module, slot: str, rows: TextRows, memory: RowMemory) -> None:
        self._layer, self._forward = layer, layer.forward
        self._slot, self._batch, self._memory = slot, rows, memory

    def __call__(self, embedding: Tensor, *args: Any) -> Tensor:
        """Apply the layer to time embeddings [B, D]."""
        if self._batch.timestep is None or wants_gradient(embedding, self._layer):
            return self._forward(embedding, *args)
        key = f"timestep {self._batch.timestep}"
        row = self._memory.get(key, self._slot)
        if row is None:
            with torch.inference_mode(False), torch.no_grad():  # may later be part of a graph
                row = self._forward(embedding, *args)[:1].clone()
            self._memory.put(key, self._slot, row)
        return row.expand(len(embedding), -1)


@contextmanager
def folded_time(layers: Sequence[nn.Module], rows: TextRows, memory: RowMemory) -> Iterator[None]:
    """Let a FoldedTime stand in for every layer; `memory` outlives the context."""
    folded = [(layer, FoldedTime(layer, f"time {number}", rows, memory)) for number, layer in enumerate(layers)]
    with standing_in(folded):
        yield


class SingleTokenAttention:
    """An attention processor of diffusers: the softmax over one key is 1, so attn(x, c) = to_out(to_v(c)) everywhere.

    Queries and keys are not computed. Anything but plain cross-attention to one token goes to the processor it
    stands in for.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __call__(
        self,
        attn: Any,  # diffusers Attention
        hidden_states: Tensor,  # [B, N, C]
        encoder_hidden_states: Tensor | None = None,  # [B, 1, D]
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The layer's output [B, N, C], one vector per image expanded over all N cells."""
        text = encoder_hidden_states
        special = attn.norm_cross or attn.residual_connection or attn.spatial_norm is not None
        if text is None or text.shape[1] != 1 or attention_mask is not None or special:
            return self.plain(attn, hidden_states, text, attention_mask)
        out = attn.to_out[1](attn.to_out[0](attn.to_v(text)))  # [B, 1, C]
        return (out / attn.rescale_output_factor).expand(-1, hidden_states.shape[1], -1)


@contextmanager
def single_token(attentions: Sequence[Any]) -> Iterator[None]:
    """Put a SingleTokenAttention before the processor of every cross-attention; none of their maps can be tapped."""
    plain = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(SingleTokenAttention(attention.processor))
    try:
        yield
    finally:
        for attention, processor in zip(attentions, plain, strict=True):
            attention.set_processor(processor)
