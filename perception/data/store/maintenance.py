"""Care of a tensor store: count it, check it, clean it. Works on the files alone, beside running writers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from perception.data.files import orphaned_temps
from perception.data.store.settings import read_settings
from perception.data.store.shards import SUFFIX, DamagedShardError, Index, check_shard, read_index
from perception.errors import UserError


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: counts of what was read, and the damaged shards with the reason."""

    shards: int
    entries: int
    bytes: int
    damaged: tuple[tuple[str, str], ...]  # (shard file name, reason)

    @property
    def ok(self) -> bool:
        """True when every shard holds what was written."""
        return not self.damaged


@dataclass(frozen=True)
class GcReport:
    """What `gc` deleted (or would delete), why, and how many bytes that frees."""

    damaged: tuple[str, ...]
    duplicates: tuple[str, ...]  # shards whose keys are all in other shards too
    evicted: tuple[str, ...]  # oldest shards above the size limit
    temps: tuple[str, ...]  # temporary files of dead processes
    freed_bytes: int
    kept_bytes: int


def store_stat(root: Path) -> dict[str, int | str | None]:
    """Format, dtype, and the numbers of shards, entries (distinct keys), tensors and bytes. Reads headers only."""
    settings = read_settings(root)
    keys: set[str] = set()
    tensors = size = shards = damaged = 0
    for path, index in _indices(root):
        shards += 1
        size += _size(path)
        if index is None:
            damaged += 1
            continue
        tensors += sum(len(names) for names in index.values())
        keys.update(index)
    counts = {"shards": shards, "entries": len(keys), "tensors": tensors, "bytes": size, "damaged": damaged}
    return {"format": settings["format"], "dtype": settings["dtype"], **counts}


def verify_store(root: Path) -> VerifyReport:
    """Read every shard in full and recompute its hash."""
    read_settings(root)
    damaged: list[tuple[str, str]] = []
    keys: set[str] = set()
    shards = size = 0
    for path in _shard_paths(root):
        try:
            index = read_index(path)
            check_shard(path)
            shards, size = shards + 1, size + _size(path)
            keys.update(index)
        except FileNotFoundError:  # collected by another process since the listing
            continue
        except DamagedShardError as error:
            shards += 1
            damaged.append((path.name, str(error)))
    return VerifyReport(shards, len(keys), size, tuple(damaged))


def collect_garbage(
    root: Path, max_bytes: int | None = None, *, check: bool = False, dry_run: bool = False
) -> GcReport:
    """Choose and delete orphaned temporary files, damaged shards, duplicates, and the oldest above `max_bytes`.

    Damage is seen in headers and sizes; with `check` every byte is read and hashed, as `verify_store` does.
    """
    read_settings(root)
    indices = dict(_indices(root, check))
    damaged = [path for path, index in indices.items() if index is None]
    by_age = sorted(
        (path for path, index in indices.items() if index is not None), key=lambda p: (_age_and_size(p)[0], p.name)
    )
    duplicates = _duplicates(by_age, indices)
    kept = [path for path in by_age if path not in duplicates]
    evicted = _oldest_above(kept, max_bytes)
    temps = orphaned_temps(root)
    doomed = [*damaged, *duplicates, *evicted, *temps]
    if folders := [path for path in doomed if path.is_dir()]:
        raise UserError(f"{folders[0]} is a folder, not a shard; move it away and run the command again.")
    freed = sum(_size(path) for path in doomed)
    kept_bytes = sum(_size(path) for path in kept if path not in evicted)
    for path in doomed if not dry_run else ():
        with suppress(FileNotFoundError):
            path.unlink()
    return GcReport(_names(damaged), _names(duplicates), _names(evicted), _names(temps), freed, kept_bytes)


def _age_and_size(path: Path) -> tuple[int, int]:
    """Modification time [ns] and bytes; zeros where another process has deleted the file since the listing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _size(path: Path) -> int:
    return _age_and_size(path)[1]


def _names(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _duplicates(by_age: list[Path], indices: dict[Path, Index | None]) -> list[Path]:
    """Shards, oldest first, every key of which is also in a shard that stays."""
    holders = Counter(key for path in by_age for key in indices[path] or ())
    doomed = []
    for path in by_age:
        keys = indices[path] or {}
        if all(holders[key] > 1 for key in keys):
            doomed.append(path)
            holders.subtract(list(keys))
    return doomed


def _oldest_above(by_age: list[Path], max_bytes: int | None) -> list[Path]:
    if max_bytes is None:
        return []
    total = sum(_size(path) for path in by_age)
    doomed = []
    for path in by_age:
        if total <= max_bytes:
            break
        doomed.append(path)
        total -= _size(path)
    return doomed


def _indices(root: Path, check: bool = False) -> Iterator[tuple[Path, Index | None]]:
    """Every shard with its index; None for a damaged one."""
    for path in _shard_paths(root):
        try:
            index = read_index(path)
            if check:
                check_shard(path)
        except FileNotFoundError:  # collected by another process since the listing
            continue
        except DamagedShardError:
            yield path, None
        else:
            yield path, index


def _shard_paths(root: Path) -> list[Path]:
    return sorted((root / "shards").glob(f"*{SUFFIX}"))
