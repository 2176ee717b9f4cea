"""Whether an earlier run of the same request has finished a job: known from files alone, before a model is loaded.

What results depend on is known exactly (`JobPredictor.fingerprint`) only once the model is loaded. A run that leaves
every item done therefore notes its request and the files that it found (`Request`). Where a later run has the same
request and finds the same files, the fingerprint is the same; where, besides, every item still has its result, nothing
is left to do. Anything else, even a file that was only touched, goes the long way, which compares contents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.files import file_hash, write_atomic
from perception.data.inputs import MOST_BYTES
from perception.errors import UserError
from perception.jobs.contract import JobOptions
from perception.jobs.folder import SETTINGS
from perception.jobs.items import Item
from perception.jobs.manifest import DONE, ManifestReader, manifest_path, missing_outputs, part_paths

NOTE = ".finished.lock"  # below OUT; called as the locks of the ranks are: no part of the results
_PACKAGE = Path(__file__).parents[1]


def _always(record: dict[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Request:
    """What a job is asked for, as far as it is known without its model."""

    told: tuple[Any, ...]  # everything but files that may change a result; its repr counts
    files: tuple[Path, ...]  # and what is read besides the items: files and folders
    still_valid: Callable[[dict[str, Any]], bool] = _always  # of a finished record, as `JobPredictor.still_valid`

    def digest(self, items: Sequence[Item], out: Path) -> str:
        """Of the request, of the items' names, and of the state of its files and of this package.

        The state of a file is its size, its inode, and when it was changed: two runs that find the same state find the
        same content.
        """
        digest = hashlib.sha256(repr(self.told).encode(errors="surrogateescape"))
        for item in items:
            digest.update(repr((item.id, item.label)).encode(errors="surrogateescape"))
        for root in (_PACKAGE, *self.files):
            for state in sorted(_states(root, out)):
                digest.update(repr(state).encode(errors="surrogateescape"))
        return digest.hexdigest()


def is_finished(items: Sequence[Item], request: Request, options: JobOptions) -> bool:
    """Whether a run of this request has finished all items, and their results are still there."""
    out = options.out
    try:
        note = json.loads((out / NOTE).read_bytes())
        if part_paths(out) or note != _note(request.digest(items, out), out):
            return False
        return _all_stand(items, request, options)
    except (OSError, ValueError, UserError):  # the long way says what is wrong
        return False


def note_finished(digest: str, items: Sequence[Item], request: Request, out: Path) -> None:
    """Note that all items are done; nothing where the request's files are no longer those of `digest`."""
    if digest == request.digest(items, out):
        note = json.dumps(_note(digest, out)).encode() + b"\n"
        path = out / NOTE
        if not path.exists() or path.read_bytes() != note:
            write_atomic(path, note)


def _note(digest: str, out: Path) -> dict[str, str]:
    """The request, and the settings and manifest that belong to it."""
    return {"request": digest, "settings": file_hash(out / SETTINGS), "manifest": file_hash(manifest_path(out))}


def _all_stand(items: Sequence[Item], request: Request, options: JobOptions) -> bool:
    """Whether all items have lines, whose files are there, and the contents that these lines were made of."""
    reader = ManifestReader(manifest_path(options.out))
    try:
        records = {item.id: reader.get(item.id) for item in items}
    finally:
        reader.close()
    for record in records.values():
        if record is None or record["status"] != DONE or missing_outputs(options.out, record):
            return False
        if not request.still_valid(record):
            return False
    with ThreadPoolExecutor(options.workers) as pool:
        hashes = pool.map(_content, items)
        return all(digest == (records[item.id] or {})["hash"] for item, digest in zip(items, hashes, strict=True))


def _content(item: Item) -> str | None:
    return None if item.path is None else file_hash(item.path, MOST_BYTES)


def _states(root: Path, out: Path) -> Iterable[tuple[str, int, int, int, int]]:
    """Name, size, inode and times of every file at or below `root`, each real folder once, without those of OUT."""
    seen, stack = {os.path.realpath(out)}, [os.fspath(root)]
    while stack:
        path = stack.pop()
        if os.path.isdir(path):
            real = os.path.realpath(path)
            if real not in seen and not path.endswith("__pycache__"):
                seen.add(real)
                stack += [os.path.join(path, name) for name in os.listdir(path)]
        elif os.path.exists(path):
            found = os.stat(path)
            name = os.path.relpath(path, root)
            yield name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
