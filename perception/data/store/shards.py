"""One shard of a tensor store: an immutable safetensors file, named by the SHA-256 of its bytes.

Tensors are named `<key>/<position>`; the metadata holds, as JSON, the tensor names of each key in their order
(safetensors itself sorts by dtype and name).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from perception.data.documents import conforms, parse_json
from perception.data.files import file_hash, write_atomic

SUFFIX = ".safetensors"
_METADATA = "perception"
Index = dict[str, tuple[str, ...]]  # key -> tensor names; equal tuples are one object


class DamagedShardError(Exception):
    """A shard whose header, size or content is not what was written."""


def write_shard(folder: Path, entries: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[str, Index]:
    """Write the entries as one shard; return its name and its index. Equal entries give equal bytes and names."""
    index = _shared({key: tuple(tensors) for key, tensors in entries.items()})
    flat = {f"{key}/{i}": tensor for key, tensors in entries.items() for i, tensor in enumerate(tensors.values())}
    content = safetensors.torch.save(flat, {_METADATA: json.dumps({"index": index})})
    name = hashlib.sha256(content).hexdigest() + SUFFIX
    if not _holds(folder / name):
        write_atomic(folder / name, content)
    return name, index


def read_index(path: Path) -> Index:
    """The index of a shard, from its header alone; checks that header, index and length of the file fit together."""
    with _opened(path) as file:
        about, held = file.metadata() or {}, set(file.keys())
    try:
        document = parse_json(about[_METADATA])
    except (KeyError, ValueError) as error:
        raise DamagedShardError("its header is not that of a tensor store") from error
    if not conforms(document, {"index": {str: [str]}}):
        raise DamagedShardError("its header is not that of a tensor store")
    index: dict[str, list[str]] = document["index"]
    missing = [key for key, names in index.items() for i in range(len(names)) if f"{key}/{i}" not in held]
    if missing:
        raise DamagedShardError(f"its index names {missing[0]!r}, which it does not hold")
    return _shared(index)


def check_shard(path: Path) -> None:
    """Read the whole shard and compare its SHA-256 with its name; raise DamagedShardError when they differ."""
    _check_regular(path)
    if file_hash(path) != path.name.removesuffix(SUFFIX):
        raise DamagedShardError("its content does not match its name")


def _holds(path: Path) -> bool:
    """Whether a shard of this name is there, with all of its bytes: a damaged one is written anew."""
    try:
        check_shard(path)
    except (FileNotFoundError, DamagedShardError):
        return False
    return True


class ShardReader:
    """An open, memory-mapped shard; `read` copies one key's tensors and touches no other bytes."""

    def __init__(self, path: Path) -> None:
        self._file = _opened(path)

    def read(self, key: str, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The tensors of `key`, which are called `names` in the order in which they were put."""
        try:
            return {name: self._file.get_tensor(f"{key}/{i}").clone() for i, name in enumerate(names)}
        except SafetensorError as error:
            raise DamagedShardError(str(error)) from error


def _opened(path: Path) -> safe_open:
    """The shard, memory-mapped; the library compares types, shapes and offsets with each other and with the file."""
    _check_regular(path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise DamagedShardError(str(error)) from error


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise DamagedShardError("it is no regular file")


def _shared(index: Mapping[str, Sequence[str]]) -> Index:
    """Most entries of a shard have the same names: keep them once."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    return {key: known.setdefault(tuple(names), tuple(names)) for key, names in index.items()}
