"""JSON that somebody else wrote, that may be damaged or made up: parsed without surprises, compared with a shape.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BYTES = 2**26  # the largest tokenizer.json in use has half of it
DEEPEST = 32  # levels of lists and objects in a document from elsewhere
_LARGEST = 2**63  # of whole numbers


class DocumentError(ValueError):
    """A file that is no usable JSON document; the message is a predicate, to stand behind the name of the file."""


def parse_json(text: bytes | str) -> Any:
    """The document. Raises ValueError whatever is wrong with it: syntax, encoding, depth, NaN, endless numbers."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_shaped(path: Path, shape: Any) -> Any:
    """The document of a file of ours. Raises ValueError unless it has the shape, FileNotFoundError where none is."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    document = parse_json(path.read_bytes())
    if not conforms(document, shape):
        raise ValueError("it has other contents than were written")
    return document


def read_document(path: Path) -> Any:
    """The JSON value in a regular file.

    Raises:
        OSError: there is no such regular file, or it cannot be read.
        DocumentError: it is too large, no JSON, or nested too deeply.
    """
    if not path.is_file():  # a FIFO or a device would never end
        raise FileNotFoundError(f"{path} is no regular file")
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DocumentError(f"is larger than {MOST_BYTES // 2**20} MiB")
    return parse_document(content)


def parse_document(content: bytes | str) -> Any:
    """The JSON value of a text from elsewhere, such as the config of a model, which may hold infinities.

    Raises:
        DocumentError: it is no JSON, or nested too deeply.
    """
    deep = f"is nested more than {DEEPEST} levels deep"
    try:
        value = json.loads(content)
    except RecursionError:
        raise DocumentError(deep) from None
    except ValueError as error:  # also bytes that are no text, and integers of thousands of digits
        raise DocumentError(f"is not valid JSON ({' '.join(str(error).split())[:120]})") from None
    if any(depth > DEEPEST for depth, _, _ in entries(value)):
        raise DocumentError(deep)
    return value


def entries(value: Any) -> Iterator[tuple[int, tuple[str, ...], Any]]:
    """Every value in a document: its depth, its path (keys, and indices of lists) and itself, in their order.

    Walks without recursion. Below `DEEPEST` + 1 nothing is visited.
    """
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        yield len(path), path, found
        if len(path) > DEEPEST:
            continue
        if isinstance(found, dict):
            waiting += reversed([((*path, key), inner) for key, inner in found.items()])
        elif isinstance(found, list):
            waiting += reversed([((*path, str(index)), inner) for index, inner in enumerate(found)])


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
