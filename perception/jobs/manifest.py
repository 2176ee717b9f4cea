"""The record of a job: OUT/manifest.jsonl, one JSON line per item, and one part per rank while the job runs.

A part only ever grows by whole lines that are on disk before the job goes on. When every rank has finished, the parts
are merged into the manifest, in item order, by one rename. A line torn by kill -9 is not a line: its item is redone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from perception.data.documents import conforms, parse_json
from perception.data.files import explain_disk_errors, fsync_folder, write_atomic
from perception.errors import UserError
from perception.jobs.items import Item

DONE, FAILED = "done", "failed"
RESERVED = ("id", "status", "output", "seed", "hash", "versions", "reason")
_LINE = (  # what every line has, for all jobs
    {"id": str, "status": {FAILED}},
    {"id": str, "status": {DONE}, "output": [str], "hash?": (str, None)},
)


def manifest_path(out: Path) -> Path:
    """The manifest of the job that writes into `out`."""
    return out / "manifest.jsonl"


def part_path(out: Path, rank: int) -> Path:
    """The part that one rank appends to while the job runs."""
    return out / f"manifest.rank{rank:05d}.jsonl"


def part_paths(out: Path) -> list[Path]:
    """The parts that exist now: of the running job, or left behind by a killed one."""
    return sorted(out.glob("manifest.rank*.jsonl"))


def encode_line(record: Mapping[str, Any]) -> bytes:
    """One line, ASCII, keys in the order given. Raises ValueError for NaN and infinities, which JSON lacks."""
    return json.dumps(record, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"


class ManifestReader:
    """Random access to the lines of one manifest or part, from any thread; holds only ids and offsets in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: dict[str, int] = {}  # id -> byte offset of its last line
        self._file = _opened(path)
        self._lock = threading.Lock()
        self._index()

    def line(self, key: str) -> bytes:
        """The line of item `key`, as it stands in the file."""
        assert self._file is not None
        with self._lock:
            self._file.seek(self.offsets[key])
            return self._file.readline()

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of item `key`; None where there is none, or none that a job can have written."""
        record = parse_json(self.line(key)) if key in self.offsets else None
        return record if _is_record(record) else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _index(self) -> None:
        offset = 0
        for line in self._file or ():
            key = _line_id(line)
            if key is not None:
                self.offsets[key] = offset
            elif line.endswith(b"\n"):
                raise UserError(
                    f"{self.path} has a broken line at byte {offset}; delete that line or choose another --out."
                )
            offset += len(line)


def read_manifest(out: Path) -> Iterator[dict[str, Any]]:
    """The records of a finished job, in item order. Raises UserError for a line that no job writes."""
    reader = ManifestReader(manifest_path(out))
    try:
        for key in reader.offsets:
            record = reader.get(key)
            if record is None:
                raise strange_line(out, key)
            yield record
    finally:
        reader.close()


def strange_line(out: Path, key: str) -> UserError:
    """What to say of a line whose fields are not those that its job writes."""
    return UserError(
        f"The line of {key!r} in {manifest_path(out)} has other fields than were written; delete that line and run "
        "the job again."
    )


def missing_outputs(out: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files that a finished line points to and that are not there, or empty."""
    return [out / path for path in record["output"] if not is_whole(out / path)]


def is_whole(path: Path) -> bool:
    """Whether a file is there and not empty, as a crash of the machine may leave it."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:  # a name that no file system takes
        return False


class ManifestWriter:
    """Appends lines to a part; after `append` they are on disk, whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explain_disk_errors(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            self._end = os.fstat(self._file.fileno()).st_size

    def append(self, lines: Sequence[bytes]) -> None:
        """Write the lines and fsync. When that fails (a full disk) the part is cut back to whole lines."""
        content = b"".join(lines)
        with explain_disk_errors(self.path):
            try:
                written = self._file.write(content)
                if written != len(content):  # a raw write may stop short where the disk fills up
                    self._file.write(content[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._end)
                raise
        self._end += len(content)

    def close(self) -> None:
        """Close the part."""
        self._file.close()


def merge_parts(out: Path, items: Sequence[Item]) -> None:
    """Merge all parts into the manifest: lines of `items` in their order, then those of other items as they stood.

    Idempotent, so it may be killed anywhere and run again.
    """
    parts = part_paths(out)
    if not parts:
        return
    readers = [ManifestReader(path) for path in (manifest_path(out), *parts)]
    try:
        newest = {key: reader for reader in readers for key in reader.offsets}
        order = {item.id: None for item in items} | newest
        lines = (newest[key].line(key) for key in order if key in newest)
        write_atomic(manifest_path(out), lines)
    finally:
        for reader in readers:
            reader.close()
    for path in parts:
        path.unlink()
    fsync_folder(out)


def _opened(path: Path) -> BinaryIO | None:
    """The file for reading, None where there is none. Raises UserError for a folder or a device of that name."""
    if not path.exists():
        return None
    if not path.is_file():
        raise UserError(f"{path} is no file, but the name of a manifest; move it away, or choose another --out.")
    return open(path, "rb")


def _line_id(line: bytes) -> str | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record["id"] if conforms(record, {"id": str}) else None


def _is_record(record: Any) -> bool:
    """Whether a line has what every line has; its outputs lie below OUT."""
    return conforms(record, _LINE) and (record["status"] == FAILED or all(map(_is_below, record["output"])))


def _is_below(path: str) -> bool:
    relative = PurePosixPath(path)
    return not relative.is_absolute() and ".." not in relative.parts and "\0" not in path
