"""Exact savings of a denoiser that is asked at few different timesteps, or with one text token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perception.backbones.sharing import standing_in, wants_gradient
from perception.backbones.tables import BatchRows, RowTables, some_rows


class FoldedTime:
    """The forward of a layer that reads the timestep alone: it looks up what it has made of each.

    Nothing is remembered where a gradient is wanted.
    """

    def __init__(self, layer: nn.Module, number: int, rows: BatchRows, tables: RowTables) -> None:
        self._layer, self._forward = layer, layer.forward
        self._number, self._batch, self._tables = number, rows, tables

    def __call__(self, times: Tensor, *args: Any) -> Tensor:
        """Apply the layer to times [B], or to embeddings of them [B, D]."""
        if self._batch.timesteps is None or wants_gradient(times, self._layer):
            return self._forward(times, *args)

        def make(rows: list[int]) -> Tensor:
            made: Tensor = self._forward(some_rows(times, rows), *args)
            return made[None]

        return self._tables.look_up(self._number, 1, self._batch.different_timesteps(len(times)), make)[0]


@contextmanager
def folded_time(layers: Sequence[nn.Module], rows: BatchRows, tables: RowTables) -> Iterator[None]:
    """Let a FoldedTime stand in for every layer; `tables` outlive the context."""
    tables.clear_if_changed(weight for layer in layers for weight in layer.parameters())
    with standing_in([(layer, FoldedTime(layer, number, rows, tables)) for number, layer in enumerate(layers)]):
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
