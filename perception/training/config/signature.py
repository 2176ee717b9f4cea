"""Which keyword arguments a constructor takes, with `**kwargs` followed to where they go."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

# Constructors that hand their **kwargs to something else than super().__init__, with the names that arrive there.
_RESIZE = {"keep_ratio", "clip_object_border", "backend", "interpolation"}
_DELEGATED: dict[str, set[str]] = {
    "CheckpointHook": set(),
    "EMAHook": {"momentum", "interval", "gamma", "device", "update_buffers"},
    "RandomChoiceResize": _RESIZE,
    "RandomResize": _RESIZE,
    "TIMMBackbone": {"out_indices", "output_stride", "drop_rate", "drop_path_rate", "norm_layer", "img_size"},
}


@dataclass(frozen=True)
class Signature:
    """Keyword arguments of a constructor."""

    name: str  # of the class or function
    names: frozenset[str]  # every accepted name
    required: frozenset[str]  # those without a default, as far as the class itself names them
    open: bool = False  # also takes names that cannot be known, because **kwargs go elsewhere

    def accepts(self, name: str) -> bool:
        """Whether `name` may be given."""
        return self.open or name in self.names


def signature_of(target: Callable[..., Any]) -> Signature:
    """The signature of a class (through its MRO while `**kwargs` go to `super().__init__`) or of a function."""
    name = getattr(target, "__name__", str(target))
    if not inspect.isclass(target):
        own = inspect.signature(target).parameters.values()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in own)
        return Signature(name, frozenset(_named(own)), _required(own), takes_all)
    return _signature_of_class(target, name)


def _signature_of_class(cls: type, name: str) -> Signature:
    names: set[str] = set()
    required: frozenset[str] | None = None
    for owner in inspect.getmro(cls):
        init = owner.__dict__.get("__init__")
        if init is None:
            continue
        if owner is object or owner is torch.nn.Module:  # both refuse every argument
            break
        own = list(inspect.signature(init).parameters.values())[1:]
        if required is None:  # of its bases the class may fill arguments itself, by position
            required = _required(own)
        names |= _named(own)
        rest = next((p.name for p in own if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            break
        if not _forwards_to_super(init, rest):
            known = _DELEGATED.get(owner.__name__)
            return Signature(name, frozenset(names | (known or set())), required, open=known is None)
    return Signature(name, frozenset(names), required or frozenset())


def _named(parameters: Iterable[inspect.Parameter]) -> set[str]:
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _required(parameters: Iterable[inspect.Parameter]) -> frozenset[str]:
    return frozenset(_named(p for p in parameters if p.default is p.empty))


def _forwards_to_super(init: Callable[..., Any], rest: str) -> bool:
    """Whether some `...__init__(..., **rest)` stands in the source of `init`; without source: assume so."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError):
        return True
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "__init__"
        and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == rest for k in call.keywords)
        for call in calls
    )
