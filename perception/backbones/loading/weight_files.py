"""Safetensors files, judged by their headers before a tensor is read; and constructors held to what the files hold."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from perception.data.documents import parse_document
from perception.errors import one_line

_LONGEST_HEADER = 10**8  # bytes, of the format
_innermost: ContextVar[object] = ContextVar("innermost", default=None)


@dataclass(frozen=True)
class Content:
    """How much some weight files hold."""

    tensors: int
    numbers: int  # in all tensors together


def content_of(files: Iterable[Path]) -> Content:
    """Tensors and numbers in undamaged safetensors files, from their headers."""
    shapes: list[list[int]] = []
    for file in files:
        with safe_open(file, "pt") as opened:
            shapes += [opened.get_slice(key).get_shape() for key in list(opened.keys())]
    return Content(len(shapes), sum(prod(shape) for shape in shapes))


@contextmanager
def parameters_of(content: Content | None, spare: Content = Content(256, 2**20)) -> Iterator[None]:
    """Inside, modules get no more parameters than weight files of this content fill; None: any number of them.

    Twice as many and `spare` are allowed, for weights that are tied, or made and not kept. A context inside another one
    counts alone.

    Raises:
        ValueError: at the first parameter too many, before memory is touched for it.
    """
    mine, left = object(), Content(0, 0) if content is None else content
    tensors, numbers = 2 * left.tensors + spare.tensors, 2 * left.numbers + spare.numbers

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if content is None or parameter is None or _innermost.get() is not mine:
            return
        tensors, numbers = tensors - 1, numbers - parameter.numel()
        if tensors < 0 or numbers < 0:
            raise ValueError(
                f"it asks for far more weights than the {left.numbers} numbers in {left.tensors} tensors of its files"
            )

    token = _innermost.set(mine)
    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
        _innermost.reset(token)


def damage(file: Path) -> str | None:
    """What is wrong with a safetensors file, from its header and its size alone.

    Layout: 8 bytes header length N (little endian), N bytes JSON, then the tensors up to the largest end offset.
    """
    label = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        return f"the weight file {label} is missing or unreadable"
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                return f"the weight file {label} is truncated ({size} bytes, its header alone needs {8 + length})"
            header = parse_document(stream.read(min(length, _LONGEST_HEADER)))
        expected = 8 + length + _end(header)
    except OSError:
        return f"the weight file {label} is missing or unreadable"
    except (struct.error, ValueError, TypeError, AttributeError, LookupError):  # DocumentError is a ValueError
        return f"the weight file {label} is not a safetensors file"
    if size != expected:
        return (
            f"the weight file {label} is {'truncated' if size < expected else 'too long'}"
            f" ({size} bytes, its header says {expected})"
        )
    return _refused(file, label)


def _end(header: dict[str, dict[str, list[int]]]) -> int:
    """The largest end offset; raises ValueError, TypeError, AttributeError or LookupError for what is no header."""
    return max((int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"), default=0)


def _refused(file: Path, label: str) -> str | None:
    """What the reader of the format itself objects to: unknown types, overlapping or missing ranges."""
    try:
        with safe_open(file, "pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"the weight file {label} is not a safetensors file ({one_line(error)})"
