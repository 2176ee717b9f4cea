"""The output folder of a job: who may write to it, what it was made with, and how it recovers from a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from perception.data.files import explain_disk_errors, orphaned_temps, write_atomic
from perception.engine.items import Item
from perception.engine.manifest import merge_parts
from perception.errors import UserError

FORMAT = 1


def claim(out: Path, rank: int) -> FileLock:
    """Lock OUT for this rank until the lock is released or the process dies, however it dies (flock).

    Raises UserError when another process holds the same rank, or OUT cannot be written.
    """
    path = out / f".rank{rank:05d}.lock"
    with explain_disk_errors(path):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"Another process is writing to {out}; wait for it, or choose another --out.") from error
    return lock


def settle(out: Path, items: Sequence[Item]) -> None:
    """Clean up after a killed run: remove orphaned temporary files, merge the parts that it left."""
    for path in orphaned_temps(out):
        path.unlink(missing_ok=True)
    merge_parts(out, items)


def check_fingerprint(out: Path, fingerprint: str, options: Mapping[str, Any]) -> None:
    """Bind OUT to one model and set of options, at the first run; later runs must have the same.

    Raises UserError naming the options that differ.
    """
    path = out / "job.json"
    document: dict[str, Any] = {"format": FORMAT, "fingerprint": fingerprint, "options": dict(options)}
    if not path.exists():
        write_atomic(path, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
        return
    try:
        stored = json.loads(path.read_bytes())
        same = stored["fingerprint"] == fingerprint
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not readable as the settings of a job; choose another --out.") from error
    if not same:
        raise UserError(
            f"{out} holds results made {_difference(stored.get('options', {}), document['options'])}; "
            f"choose another --out, or delete that folder to start over."
        )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    new = json.loads(json.dumps(new))
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if not differing:
        return "with another model"
    return "with " + ", ".join(f"{key} = {old.get(key)!r} (now {new.get(key)!r})" for key in differing)
