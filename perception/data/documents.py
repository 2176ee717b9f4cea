"""JSON files that somebody else wrote, read as plain data: bounded in size and in depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BYTES = 2**26  # the largest tokenizer.json in use has half of it
DEEPEST = 32  # levels of lists and objects


class DocumentError(ValueError):
    """A file that is no usable JSON document; the message is a predicate, to stand behind the name of the file."""


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
    """The JSON value of a text.

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
