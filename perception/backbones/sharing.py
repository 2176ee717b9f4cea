"""Exact savings for many candidate prompts on one sample: the text-free prefix and the text keys/values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.tables import BatchRows, RowTables, Samples, some_rows


@contextmanager
def shared_prefix(chains: Sequence[Sequence[nn.Module]], samples: Samples) -> Iterator[None]:
    """Run each chain of modules on the first row of each sample and repeat its outputs.

    A chain is a module, or several of which each gets what the one before has made and nothing else that has rows. The
    batch must be ordered [sample 0 x candidates, sample 1 x candidates, ...] and the inputs of the chains must be equal
    within a sample, which holds for everything before the first cross-attention.
    """

    def narrow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _map_tensors(samples.narrow, args), _map_tensors(samples.narrow, kwargs)

    def widen(module: nn.Module, args: Any, output: Any) -> Any:
        return _map_tensors(samples.widen, output)

    hooks = []
    for chain in chains if max(samples.counts) > 1 else ():
        hooks.append(chain[0].register_forward_pre_hook(narrow, with_kwargs=True))
        hooks.append(chain[-1].register_forward_hook(widen))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and dictionaries (all of them are row-aligned)."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(function, entry) for entry in value)
    if isinstance(value, dict):
        return {key: _map_tensors(function, entry) for key, entry in value.items()}
    return value


def wants_gradient(value: Tensor, module: nn.Module) -> bool:
    """Whether a gradient flows through this call of `module`."""
    return torch.is_grad_enabled() and (value.requires_grad or any(w.requires_grad for w in module.parameters()))


@contextmanager
def standing_in(forwards: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Inside, each module runs the function that is given with it as its `forward`; its hooks run as ever."""
    before = [module.__dict__.get("forward") for module, _ in forwards]
    for module, forward in forwards:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for (module, _), own in zip(forwards, before, strict=True):
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


class CachedText:
    """The forwards of an attention's key and value projections, which remember what they made of a prompt.

    Holds 2 x L x C numbers per prompt; over all layers of SD 1.5 that is 7.7 MB in float32 (77 tokens). Both are looked
    up at once, when the keys are asked for: half as many kernels. Nothing is remembered where a gradient is wanted.
    """

    def __init__(self, attention: Any, layer: int, batch: BatchRows, tables: RowTables) -> None:
        self._projections: tuple[nn.Module, nn.Module] = attention.to_k, attention.to_v
        self._project_keys, self._project_values = (projection.forward for projection in self._projections)
        self._layer, self._batch, self._tables = layer, batch, tables
        self._waiting: tuple[Tensor, Tensor] | None = None  # a text, and its values, from the keys' call on

    def keys(self, text: Tensor) -> Tensor:
        """Project text tokens [B, L, D] to keys [B, L, C]."""
        if not self._remembers(text):
            return self._project_keys(text)
        keys, values = self._looked_up(text)
        self._waiting = text, values
        return keys

    def values(self, text: Tensor) -> Tensor:
        """Project text tokens [B, L, D] to values [B, L, C]."""
        waiting, self._waiting = self._waiting, None
        if not self._remembers(text):
            return self._project_values(text)
        return waiting[1] if waiting is not None and waiting[0] is text else self._looked_up(text)[1]

    def _remembers(self, text: Tensor) -> bool:
        return self._batch.texts is not None and not any(wants_gradient(text, each) for each in self._projections)

    def _looked_up(self, text: Tensor) -> Tensor:
        def project(rows: list[int]) -> Tensor:
            told = some_rows(text, rows)
            return torch.stack([self._project_keys(told), self._project_values(told)])

        return self._tables.look_up(self._layer, text.shape[1], self._batch.different_texts(), project)


def text_bytes(attentions: Sequence[Any], tokens: int, dtype: torch.dtype) -> int:
    """What `cached_text` remembers of a prompt of so many tokens."""
    return sum(2 * attention.inner_kv_dim for attention in attentions) * tokens * dtype.itemsize


@contextmanager
def cached_text(attentions: Sequence[Any], rows: BatchRows, tables: RowTables | None = None) -> Iterator[None]:
    """Let a CachedText stand in for `to_k` and `to_v` of each of `attentions`.

    Without `tables` what is remembered lives as long as the context.
    """
    tables = RowTables() if tables is None else tables
    tables.clear_if_changed(
        [
            weight
            for attention in attentions
            for part in (attention.to_k, attention.to_v)
            for weight in part.parameters()
        ]
    )
    cached = [CachedText(attention, number, rows, tables) for number, attention in enumerate(attentions)]
    forwards = [
        forward
        for attention, text in zip(attentions, cached, strict=True)
        for forward in ((attention.to_k, text.keys), (attention.to_v, text.values))
    ]
    with standing_in(forwards):
        yield
