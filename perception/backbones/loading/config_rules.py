"""What the config of a model in a folder may say, judged by the constructor that takes it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, get_args, get_type_hints

import diffusers
import transformers

from perception.data.documents import entries

_MOST = 2**20  # of every whole number: channels, layers, tokens, vocabularies
_LARGEST_GRID = 512  # cells per side of what a transformer makes a table of positions for
_GRIDS = ("sample_size", "pos_embed_max_size")
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_REFUSED = ("quantization_config", "auto_map", "transformers_weights")  # code, other files, other layers


def class_of(name: str) -> tuple[Any, bool]:
    """The class of a model, and whether it is of diffusers (else of transformers)."""
    is_diffusers = hasattr(diffusers, name)
    return getattr(diffusers if is_diffusers else transformers, name), is_diffusers


def known_values(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that the constructor of the class declares; all else has no effect on its numbers."""
    cls, is_diffusers = class_of(class_name)
    return (
        {k: v for k, v in config.items() if k in _kinds(cls.__init__)}
        if is_diffusers
        else _fields(cls.config_class, config)
    )


def config_problems(class_name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """What forbids to build the class from a config, each as a clause about the config."""
    yield from (f"{key} is set, which is not supported" for key in _REFUSED if config.get(key) is not None)
    known, (cls, is_diffusers) = known_values(class_name, config), class_of(class_name)
    kinds = _kinds(cls.__init__) if is_diffusers else {}  # the config classes of transformers judge kinds themselves
    for _, path, value in entries(known):
        if isinstance(value, (bool, int, float, str)) and path[0] in kinds and not _fits(value, kinds[path[0]]):
            expected = " or ".join(_NAMES[kind] for kind in kinds[path[0]] if kind in _NAMES)
            yield f"{'.'.join(path)[:80]} is {repr(value)[:60]}, expected {expected}"
        elif isinstance(value, (int, float)):
            most = _LARGEST_GRID if path[0] in _GRIDS and "Transformer" in class_name else _MOST
            if not (math.isfinite(value) and abs(value) <= most):
                yield f"{'.'.join(path)[:80]} is {repr(value)[:60]}, expected at most {most}"


@lru_cache
def _kinds(constructor: Callable[..., Any]) -> Mapping[str, frozenset[type]]:
    """The arguments of a constructor of diffusers, and the plain types inside their annotations."""
    hints = get_type_hints(constructor)
    names = [name for name in inspect.signature(constructor).parameters if name != "self"]
    return {name: frozenset(_plain_types(hints.get(name))) for name in names}


def _plain_types(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for inner in get_args(hint):
        yield from _plain_types(inner)


def _fits(value: Any, kinds: frozenset[type]) -> bool:
    """Whether a switch, number or word is of one of the plain types; of no known one, anything is."""
    known = kinds & _NAMES.keys()
    if isinstance(value, bool):
        return not known or bool in known
    return not known or isinstance(value, tuple(known)) or (isinstance(value, int) and float in known)


def _fields(config_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a config class of transformers declares itself, not those that all share."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = config_class.sub_configs.get(key.removesuffix("_dict"))  # CLIPConfig; *_dict: in old files
        if inner is not None:
            found[key] = _fields(inner, value) if isinstance(value, Mapping) else value
        elif key in config_class.__annotations__:
            found[key] = value
    return found
