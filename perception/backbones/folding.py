"""Exact savings of a denoiser that is asked at few different timesteps, or with one text token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perception.backbones.sharing import standing_in, wants_gradient
from perception.backbones.tables import BatchRows, RowTables, some_rows


class FoldedTime:
    """The forwards of a layer that reads the timestep alone, and of the one before it: what they make is looked up.

    Of two layers the first one hands the times on, which are read where there are timesteps without an answer. Nothing
    is remembered where a gradient is wanted.
    """

    def __init__(self, chain: Sequence[nn.Module], number: int, rows: BatchRows, tables: RowTables) -> None:
        self._chain = chain  # the layer, perhaps with one before it, which gets the times and nothing else
        self._before, self._forward = chain[0].forward, chain[-1].forward
        self._number, self._batch, self._tables = number, rows, tables
        self._times: Tensor | None = None  # [B], from the first layer's call on

    def hand_on(self, times: Tensor) -> Tensor:
        """Stand in for the first of two layers, of times [B]."""
        if not self._remembers(times):
            made: Tensor = self._before(times)
            return made
        self._times = times
        return times

    def look_up(self, value: Tensor, *args: Any) -> Tensor:
        """Stand in for the last layer, of times [B] or embeddings of them [B, D]."""
        times, self._times = self._times, None
        if times is None and (len(self._chain) > 1 or not self._remembers(value)):
            return self._forward(value, *args)

        def make(rows: list[int]) -> Tensor:
            some = some_rows(value if times is None else times, rows)
            made: Tensor = self._forward(some if times is None else self._before(some).to(value.dtype), *args)
            return made[None]

        return self._tables.look_up(self._number, 1, self._batch.different_timesteps(len(value)), make)[0]

    def _remembers(self, value: Tensor) -> bool:
        return self._batch.timesteps is not None and not any(wants_gradient(value, layer) for layer in self._chain)


@contextmanager
def folded_time(chains: Sequence[Sequence[nn.Module]], rows: BatchRows, tables: RowTables) -> Iterator[None]:
    """Let a FoldedTime stand in for every chain of one or two layers; `tables` outlive the context."""
    tables.clear_if_changed(weight for chain in chains for layer in chain for weight in layer.parameters())
    forwards = []
    for number, chain in enumerate(chains):
        folded = FoldedTime(chain, number, rows, tables)
        forwards += [(layer, folded.hand_on) for layer in chain[:-1]] + [(chain[-1], folded.look_up)]
    with standing_in(forwards):
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
