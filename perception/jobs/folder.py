"""The output folder of a job: who may write to it, what it was made with, and how it recovers from a kill."""

from __future__ import annotations

import json
import reprlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from perception.data.documents import read_shaped
from perception.data.files import explain_disk_errors, orphaned_temps, write_atomic
from perception.errors import UserError
from perception.jobs.contract import JobPredictor
from perception.jobs.items import Item
from perception.jobs.manifest import merge_parts, part_path

SETTINGS = "job.json"
FORMAT = 1
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 200  # characters
_BRIEF.maxlist = _BRIEF.maxdict = 50
_SETTINGS = {"fingerprint?": str, "options": {str: object}, "revisions?": {str: str}}
ORPHAN_SECONDS = 60.0  # a worker whose job was killed notices it within this time


def claim(out: Path, rank: int, world: int = 1) -> FileLock:
    """Lock OUT for this rank until the lock is released or the process dies, however it dies (flock).

    Rank 0 also waits until no process outside its `world` of ranks is left: workers of a killed run end by themselves.
    Raises UserError when another process holds the same rank, or OUT cannot be written.
    """
    lock = _lock(_lock_path(out, rank))
    if lock is None:
        raise _in_use(out)
    if rank == 0:
        try:
            _await_orphans(out, world)
        except BaseException:
            lock.release()
            raise
    return lock


def claim_next_rank(out: Path) -> tuple[int, FileLock]:
    """Lock the first rank above 0 that no process holds and that has no part of the manifest yet, and start the part.

    So a worker that takes the place of a dead one never appends to the line which that one was writing, and ranks
    count how many workers a run has started.
    """
    rank = 1
    while True:
        lock = _lock(_lock_path(out, rank))
        if lock is not None and not part_path(out, rank).exists():
            with explain_disk_errors(part_path(out, rank)):
                part_path(out, rank).touch()
            return rank, lock
        if lock is not None:
            lock.release()
        rank += 1


def _await_orphans(out: Path, world: int) -> None:
    deadline = time.monotonic() + ORPHAN_SECONDS
    own = {_lock_path(out, rank) for rank in range(world)}
    for path in sorted(set(out.glob(".rank*.lock")) - own):
        lock = _lock(path, max(deadline - time.monotonic(), 0.0))
        if lock is None:
            raise _in_use(out)
        lock.release()


def _lock(path: Path, patience: float = 0.0) -> FileLock | None:
    """The lock, or None when another process holds it for longer than `patience` seconds."""
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            return None
    return lock


def _lock_path(out: Path, rank: int) -> Path:
    return out / f".rank{rank:05d}.lock"


def _in_use(out: Path) -> UserError:
    return UserError(f"Another process is writing to {out}; wait for it, or choose another --out.")


def recover(out: Path, items: Sequence[Item]) -> None:
    """Clean up after a killed run: remove orphaned temporary files, merge the parts that it left."""
    for path in orphaned_temps(out):
        path.unlink(missing_ok=True)
    merge_parts(out, items)


def check_job(out: Path, predictor: JobPredictor) -> None:
    """Bind OUT to the model and options of a predictor, at the first run; later runs must have the same.

    Models of the hub must be of the same commit, too; a copy of one in a folder has none and is told by its content.

    Raises UserError naming what differs.
    """
    revisions = dict(getattr(predictor, "revisions", {}))
    check_fingerprint(out, predictor.fingerprint, getattr(predictor, "options", {}), revisions)


def check_fingerprint(
    out: Path,
    fingerprint: str,
    options: Mapping[str, Any],
    revisions: Mapping[str, str] | None = None,  # part -> commit, of what came from the hub
) -> None:
    """Bind OUT to one model and set of options, at the first run; later runs must have the same.

    Raises UserError naming the options that differ.
    """
    path = out / SETTINGS
    document: dict[str, Any] = {"format": FORMAT, "fingerprint": fingerprint, "options": dict(options)}
    document |= {"revisions": dict(revisions)} if revisions else {}
    if not path.exists():
        write_atomic(path, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
        return
    stored, known = read_settings(out)
    before, now = read_revisions(out), revisions or {}
    moved = [part for part in sorted(now) if before.get(part, now[part]) != now[part]]
    if stored != fingerprint or moved:
        old, new = ({f"revision of the {part}": commits[part] for part in moved} for commits in (before, now))
        raise UserError(
            f"{out} holds results made {_difference({**known, **old}, {**document['options'], **new})}; "
            f"choose another --out, or delete that folder to start over."
        )


def read_settings(out: Path) -> tuple[str | None, dict[str, Any]]:
    """Fingerprint (None where it is not told) and options of the job that writes into `out`.

    Raises UserError where they cannot be read.
    """
    settings = _read(out)
    return settings.get("fingerprint"), settings["options"]


def read_revisions(out: Path) -> dict[str, str]:
    """Part -> commit of the models of the hub, of the job that writes into `out`; raises as `read_settings`."""
    revisions: dict[str, str] = _read(out).get("revisions", {})
    return revisions


def _read(out: Path) -> dict[str, Any]:
    path = out / SETTINGS
    try:
        settings: dict[str, Any] = read_shaped(path, _SETTINGS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable as the settings of a job ({_reason(error)}); choose another folder, or delete "
            f"{out} to start over."
        ) from error
    return settings


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    new = json.loads(json.dumps(new))
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if not differing:
        return "with another model"
    return "with " + ", ".join(change(key, old, new) for key in differing)


def change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """'size = 512 (now 256)' of an option, each value in a few words."""
    return f"{key} = {_BRIEF.repr(old.get(key))} (now {_BRIEF.repr(new.get(key))})"
