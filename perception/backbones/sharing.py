"""Exact savings for many candidate prompts on one sample: the text-free prefix and the text keys/values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.devices import sent
from perception.backbones.memory import RowMemory
from perception.errors import UserError


@contextmanager
def shared_prefix(modules: Sequence[nn.Module], candidates: int) -> Iterator[None]:
    """Run each of `modules` on every `candidates`-th row of its inputs and repeat its outputs.

    The batch must be ordered [sample 0 x candidates, sample 1 x candidates, ...] and the inputs of `modules` must be
    equal within a sample, which holds for everything before the first cross-attention.
    """
    if not isinstance(candidates, int) or candidates < 1:
        raise UserError(f"candidates is {candidates!r}; expected the number of prompts per sample, at least 1")
    hooks = []
    for module in modules if candidates > 1 else ():
        hooks.append(module.register_forward_pre_hook(_narrow(candidates), with_kwargs=True))
        hooks.append(module.register_forward_hook(_widen(candidates)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def every_row(value: Tensor, rows: int) -> Tensor:
    """What was read inside a module that ran once per sample of `shared_prefix`, for all rows of the batch."""
    return value if len(value) == rows else value.repeat_interleave(rows // len(value), dim=0)


def _narrow(candidates: int) -> Callable[..., tuple[Any, Any]]:
    def first_of_each(rows: Tensor) -> Tensor:
        if len(rows) % candidates:
            raise UserError(
                f"a batch of {len(rows)} rows does not hold {candidates} candidates per sample; "
                "order it [sample 0 x candidates, sample 1 x candidates, ...]"
            )
        return rows[::candidates]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _map_tensors(first_of_each, args), _map_tensors(first_of_each, kwargs)

    return hook


def _widen(candidates: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return _map_tensors(lambda x: x.repeat_interleave(candidates, dim=0), output)

    return hook


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and dictionaries (all of them are row-aligned)."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(function, entry) for entry in value)
    if isinstance(value, dict):
        return {key: _map_tensors(function, entry) for key, entry in value.items()}
    return value


@dataclass(frozen=True)
class Prompts:
    """The different prompts of a batch of B rows."""

    distinct: tuple[str, ...]  # row keys, in the order of their first rows
    rows: Tensor  # int64 [B]: the number of each row's among them
    first: Tensor  # int64 [prompts]: the first row of each


class TextRows:
    """Which prompt each row of the running batch holds, and its timestep; None where it is not a single, known one."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] | None = None
        self.timestep: float | None = None
        self._read: tuple[tuple[str, ...], Prompts] | None = None

    def prompts(self, device: torch.device) -> Prompts:
        """Which prompts the running batch holds; read once per batch."""
        assert self.keys is not None
        if self._read is None or self._read[0] is not self.keys or self._read[1].rows.device != device:
            first: dict[str, int] = {}
            for row, key in enumerate(self.keys):
                first.setdefault(key, row)
            numbers = {key: number for number, key in enumerate(first)}
            rows = torch.tensor([numbers[key] for key in self.keys])
            firsts = torch.tensor(list(first.values()))
            self._read = self.keys, Prompts(tuple(first), sent(rows, device), sent(firsts, device))
        return self._read[1]


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


class CachedProjection:
    """The forward of a key or value projection that remembers its output per prompt.

    Holds L x C numbers per prompt; over all layers of SD 1.5 that is 7.7 MB in float32 (77 tokens). Nothing is
    remembered where a gradient is wanted.
    """

    def __init__(self, projection: nn.Module, slot: str, rows: TextRows, memory: RowMemory) -> None:
        self._projection, self._project = projection, projection.forward
        self._slot, self._batch, self._memory = slot, rows, memory
        self._table: tuple[tuple[str, ...], Tensor] | None = None  # of the last batch, whose prompts mostly come again

    def __call__(self, text: Tensor) -> Tensor:
        """Project text tokens [B, L, D] to [B, L, C]."""
        if self._batch.keys is None or wants_gradient(text, self._projection):
            return self._project(text)
        prompts = self._batch.prompts(text.device)
        if self._table is None or self._table[0] != prompts.distinct:
            with torch.inference_mode(False), torch.no_grad():  # remembered rows may later be part of a graph
                self._table = prompts.distinct, self._projected(prompts, text)
        table = self._table[1]
        return table.expand(len(text), -1, -1) if len(table) == 1 else table[prompts.rows]

    def _projected(self, prompts: Prompts, text: Tensor) -> Tensor:
        """The projection of every prompt [prompts, L, C]; those that are not known yet from their rows of `text`."""
        known = [self._memory.get(key, self._slot) for key in prompts.distinct]
        missing = [number for number, row in enumerate(known) if row is None]
        if missing:
            every = len(missing) == len(known)
            projected = self._project(text[prompts.first if every else prompts.first[missing]])
            for number, row in zip(missing, projected.unbind(0), strict=True):
                known[number] = row
                self._memory.put(prompts.distinct[number], self._slot, row)
            if every:
                return projected
        rows = [row for row in known if row is not None]
        return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def text_bytes(attentions: Sequence[Any], tokens: int, dtype: torch.dtype) -> int:
    """What `cached_text` remembers of a prompt of so many tokens."""
    return sum(2 * attention.inner_kv_dim for attention in attentions) * tokens * dtype.itemsize


@contextmanager
def cached_text(attentions: Sequence[Any], rows: TextRows, memory: RowMemory | None = None) -> Iterator[None]:
    """Let a CachedProjection stand in for every `to_k` and `to_v` of `attentions`.

    Without a `memory` the rows live as long as the context.
    """
    memory = RowMemory() if memory is None else memory
    slots = [
        (projection, f"{kind} {number}")
        for number, attention in enumerate(attentions)
        for kind, projection in (("key", attention.to_k), ("value", attention.to_v))
    ]
    with standing_in([(layer, CachedProjection(layer, slot, rows, memory)) for layer, slot in slots]):
        yield
