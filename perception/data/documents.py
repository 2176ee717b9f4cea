"""JSON that may be damaged or made up: parsed without surprises, and compared with what was expected.

A shape says what a value must be:

    str, int, bool     a value of that type; an int fits into 64 bits and is no bool
    float              a finite number
    None               null
    object             anything
    {"a", "b"}         one of these texts
    (shape, ...)       one of these
    [shape]            a list of them; [first, second, ...]: a list of just these
    {str: shape}       an object with any keys; {"key": shape, "other?": shape}: at least these, without the `?` ones
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_LARGEST = 2**63  # of whole numbers


def parse_json(text: bytes | str) -> Any:
    """The document. Raises ValueError whatever is wrong with it: syntax, encoding, depth, NaN, endless numbers."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_document(path: Path, shape: Any) -> Any:
    """The document of a file. Raises ValueError unless it has the shape, FileNotFoundError where there is none."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    document = parse_json(path.read_bytes())
    if not conforms(document, shape):
        raise ValueError("it has other contents than were written")
    return document


def conforms(value: Any, shape: Any) -> bool:
    """Whether a parsed value has a shape (see the module)."""
    if isinstance(shape, tuple):
        return any(conforms(value, one) for one in shape)
    if isinstance(shape, set):
        return isinstance(value, str) and value in shape
    if isinstance(shape, list):
        return isinstance(value, list) and _fits_list(value, shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and _fits_object(value, shape)
    return value is None if shape is None else _fits_type(value, shape)


def _fits_list(value: list[Any], shape: list[Any]) -> bool:
    if len(shape) == 1:
        return all(conforms(one, shape[0]) for one in value)
    return len(value) == len(shape) and all(map(conforms, value, shape))


def _fits_object(value: dict[str, Any], shape: dict[Any, Any]) -> bool:
    if str in shape:
        return all(conforms(one, shape[str]) for one in value.values())
    return all(
        conforms(value[name], part) if (name := key.removesuffix("?")) in value else key.endswith("?")
        for key, part in shape.items()
    )


def _fits_type(value: Any, kind: type) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _LARGEST
    return kind is float and isinstance(value, float) and math.isfinite(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")
