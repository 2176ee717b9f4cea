"""One shard of a tensor store: an immutable safetensors file, named by the SHA-256 of its bytes.

Tensors are named `<key>/<position>`; the metadata holds, as JSON, the tensor names of each key in their order
(safetensors itself sorts by dtype and name).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from perception.data.files import file_hash, write_atomic

SUFFIX = ".safetensors"
_METADATA = "perception"
_PREFIX_BYTES = 8  # little-endian length of the JSON header
_MAX_HEADER = 100_000_000  # bytes, the limit of the format
Index = dict[str, tuple[str, ...]]  # key -> tensor names; equal tuples are one object


class DamagedShardError(Exception):
    """A shard whose header, size or content is not what was written."""


def write_shard(folder: Path, entries: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[str, Index]:
    """Write the entries as one shard; return its name and its index. Equal entries give equal bytes and names."""
    index = _shared({key: tuple(tensors) for key, tensors in entries.items()})
    flat = {f"{key}/{i}": tensor for key, tensors in entries.items() for i, tensor in enumerate(tensors.values())}
    content = safetensors.torch.save(flat, {_METADATA: json.dumps({"index": index})})
    name = hashlib.sha256(content).hexdigest() + SUFFIX
    if not (folder / name).exists():
        write_atomic(folder / name, content)
    return name, index


def read_index(path: Path) -> Index:
    """The index of a shard, from its header alone; checks that the file is as long as the header says."""
    with open(path, "rb") as file:
        prefix = file.read(_PREFIX_BYTES)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == _PREFIX_BYTES else _MAX_HEADER + 1
        if length > _MAX_HEADER:
            raise DamagedShardError("its header is cut off")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        index = _shared(json.loads(header.pop("__metadata__")[_METADATA])["index"])
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedShardError("its header is not that of a tensor store") from error
    size, expected = path.stat().st_size, _PREFIX_BYTES + length + end
    if size != expected:
        raise DamagedShardError(f"it has {size} bytes instead of {expected}")
    return index


def check_shard(path: Path) -> None:
    """Read the whole shard and compare its SHA-256 with its name; raise DamagedShardError when they differ."""
    if file_hash(path) != path.name.removesuffix(SUFFIX):
        raise DamagedShardError("its content does not match its name")


class ShardReader:
    """An open, memory-mapped shard; `read` copies one key's tensors and touches no other bytes."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise DamagedShardError(str(error)) from error

    def read(self, key: str, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The tensors of `key`, which are called `names` in the order in which they were put."""
        return {name: self._file.get_tensor(f"{key}/{i}").clone() for i, name in enumerate(names)}


def _shared(index: Mapping[str, Sequence[str]]) -> Index:
    """Most entries of a shard have the same names: keep them once."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    return {key: known.setdefault(tuple(names), tuple(names)) for key, names in index.items()}
