"""A content-addressed store of tensors on disk: latents and features are computed once and read ever after.

    <root>/store.json                    format version and dtype
    <root>/shards/<sha256>.safetensors   immutable shards; the index is rebuilt from their headers

Shards appear by rename, so a reader never sees half of one, and several processes may write at the same time: each
writes shards of its own, and equal shards have equal names.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import torch

from perception.checks import check_tensors
from perception.data.store.settings import dtype_name, open_settings
from perception.data.store.shards import SUFFIX, DamagedShardError, Index, ShardReader, read_index, write_shard
from perception.errors import UserError

_OPEN_SHARDS = 256  # memory maps kept open
_RACY_SECONDS = 2.0  # a folder changed this recently may change again without a new time stamp
_open_stores: weakref.WeakSet[TensorStore] = weakref.WeakSet()


class TensorStore:
    """A map from keys to named tensors, on disk; one object may be used from several threads.

    Floating-point tensors are stored as `dtype` and come back in it; others, and all with dtype None, as they are.
    `put` collects tensors until a shard is full; call `flush` (or leave the context) to have them on disk. What is
    pending when the interpreter ends is written then. A damaged shard is passed over, with a line on stderr.

    Raises:
        UserError: the folder is no store, has another format or dtype, a value does not fit
            into the dtype, the disk is full, or a read-only store is written.
    """

    def __init__(
        self,
        root: str | Path,  # folder; created unless read_only
        *,
        dtype: torch.dtype | None = torch.float16,  # a read-only store has the dtype that it was written with
        shard_bytes: int = 64 << 20,  # size at which a shard is written
        read_only: bool = False,
    ) -> None:
        self.root = Path(root)
        self.read_only = read_only
        self.shard_bytes = shard_bytes
        self.dtype = open_settings(self.root, dtype, read_only)
        self._lock = threading.RLock()
        self._pending: dict[str, dict[str, torch.Tensor]] = {}
        self._pending_bytes = 0
        self._shards: set[str] = set()  # names of the shards that were read
        self._where: dict[str, tuple[str, tuple[str, ...]]] = {}  # key -> shard name, tensor names
        self._passed_over: set[str] = set()  # names of damaged shards
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()  # least recently used first
        _open_stores.add(self)
        self._scanned: int | None = None  # mtime [ns] of the shard folder at the last scan that can be trusted

    @property
    def shard_folder(self) -> Path:
        """Where the shards lie."""
        return self.root / "shards"

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors put under `key`, on the CPU and in their order, or None. Reads only their bytes."""
        with self._lock:
            if key in self._pending:
                return {name: tensor.clone() for name, tensor in self._pending[key].items()}
            if key not in self._where:
                self._refresh()
            if key not in self._where:
                return None
            shard, names = self._where[key]
            try:
                return self._reader(shard).read(key, names)
            except FileNotFoundError:  # collected by another process; the key may be in another shard
                self._forget()
            except DamagedShardError as error:
                self._pass_over(shard, error)
                self._forget()  # its keys may be in other shards too
            return self.get(key)

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Store named tensors under `key`; a key that is present already keeps what it has."""
        self._writable()
        if not key or "/" in key:
            raise ValueError(f"a store key is a non-empty string without '/', not {key!r}")
        with self._lock:
            if key in self:
                return
            entry = {name: self._converted(name, tensor) for name, tensor in tensors.items()}
            self._pending[key] = entry
            self._pending_bytes += sum(tensor.nbytes for tensor in entry.values())
            if self._pending_bytes >= self.shard_bytes:
                self.flush()

    def flush(self) -> None:
        """Write what was put into a shard; afterwards it is on disk and visible to other processes."""
        with self._lock:
            if not self._pending:
                return
            name, index = write_shard(self.shard_folder, self._pending)
            self._pending, self._pending_bytes = {}, 0
            self._add(name, index)

    def close(self) -> None:
        """Flush, and close the open shards."""
        self.flush()
        self._readers.clear()

    def keys(self) -> Iterator[str]:
        """All keys now in the store, pending ones included."""
        with self._lock:
            self._refresh()
            keys = [*self._where, *self._pending]
        yield from keys

    def __contains__(self, key: object) -> bool:
        with self._lock:
            if key in self._pending or key in self._where:
                return True
            self._refresh()
            return key in self._where

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        check_tensors(**{name: tensor})
        tensor = tensor.detach()
        if self.dtype is None or not tensor.is_floating_point():
            return tensor.cpu().contiguous().clone()
        limits = torch.stack(tensor.aminmax()) if tensor.numel() else tensor  # NaN propagates
        if not limits.to(self.dtype).isfinite().all():
            raise UserError(
                f"Tensor '{name}' has values that are not finite in {dtype_name(self.dtype)} (largest magnitude "
                f"{limits.abs().max().item():.3g}); use a bfloat16 or float32 store, or check the model."
            )
        return tensor.to("cpu", self.dtype, copy=True).contiguous()

    def _refresh(self) -> None:
        """Read the headers of shards that appeared since the last look."""
        try:
            modified = self.shard_folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if modified == self._scanned:
            return
        settled = time.time_ns() - modified > _RACY_SECONDS * 1e9
        for name in self._listed():
            if name.endswith(SUFFIX) and name not in self._shards and name not in self._passed_over:
                self._scan(self.shard_folder / name)
        self._scanned = modified if settled else None

    def _listed(self) -> list[str]:
        try:
            return sorted(os.listdir(self.shard_folder))
        except NotADirectoryError as error:
            raise UserError(f"{self.shard_folder} is no folder; move it away, or choose another store.") from error

    def _scan(self, path: Path) -> None:
        try:
            self._add(path.name, read_index(path))
        except FileNotFoundError:  # collected by another process since the listing
            return
        except DamagedShardError as error:
            self._pass_over(path.name, error)

    def _pass_over(self, name: str, error: DamagedShardError) -> None:
        """What a damaged shard held is not there: its keys can be put anew, the rest of the store is as it was."""
        self._passed_over.add(name)
        print(
            f"Shard {self.shard_folder / name} is damaged ({error}) and passed over: what it held is computed again "
            f"when needed; `perception store {self.root} gc` deletes it.",
            file=sys.stderr,
        )

    def _add(self, name: str, index: Index) -> None:
        self._shards.add(name)
        self._passed_over.discard(name)  # written anew
        places = {names: (name, names) for names in index.values()}
        self._where.update((key, places[names]) for key, names in index.items())

    def _forget(self) -> None:
        """Shards were deleted: read the folder anew at the next look."""
        self._shards, self._where, self._scanned = set(), {}, None
        self._readers.clear()

    def _reader(self, name: str) -> ShardReader:
        if name in self._readers:
            self._readers.move_to_end(name)
            return self._readers[name]
        reader = ShardReader(self.shard_folder / name)
        self._readers[name] = reader
        if len(self._readers) > _OPEN_SHARDS:
            self._readers.popitem(last=False)
        return reader

    def _writable(self) -> None:
        if self.read_only:
            raise UserError(f"The store {self.root} was opened read-only; open it with read_only=False to change it.")

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Worker processes get a read-only view of what is on disk (pending tensors stay here)."""
        return _reopen, (self.root,)


@atexit.register
def _flush_open_stores() -> None:
    for store in list(_open_stores):
        try:
            store.flush()
        except UserError as error:
            print(f"{store.root} is left without what was computed last: {error}", file=sys.stderr)


def feature_key(image_hash: str, fingerprint: str, spec_json: Mapping[str, object]) -> str:
    """The key of what one backbone computes from one image with one spec: SHA-256 of all three, hex."""
    document = json.dumps([image_hash, fingerprint, spec_json], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def _reopen(root: Path) -> TensorStore:
    return TensorStore(root, read_only=True)
