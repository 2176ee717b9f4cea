"""Files that are either whole or absent, also after kill -9 and on a full disk; and their hashes."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perception.data.inputs import check_size, open_regular
from perception.errors import UserError

TEMP_SUFFIX = ".tmp"
STALE_SECONDS = 24 * 3600.0  # a temporary file of another host is an orphan after a day
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_counter = itertools.count()


class NoSpaceError(UserError):
    """The disk (or the user's quota) is full; the job stops, because every further item would fail too."""


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk (NoSpaceError) and a forbidden or impossible `path` (UserError) into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpaceError(f"No space left in {path.parent}: free space and run the same command again.") from error
        if error.errno in _FORBIDDEN:
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another output folder.") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`, which is put on disk and takes that name at the end of the block.

    Afterwards the file is on disk, under its name, with all of its bytes; before that, and where the block fails, the
    old file stays. Missing parent folders are created. Raises NoSpaceError on a full disk, UserError where writing is
    not allowed.
    """
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{next(_counter)}{TEMP_SUFFIX}")
        try:
            yield temporary
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
        fsync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its name, and its place if there is one, at the end of the block.

    Where the block fails, the old folder stays and the new one goes.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write `content`, or its pieces, as `replacing` does."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)


def file_hash(path: str | Path, most: int | None = None) -> str:
    """SHA-256 (hex) of the bytes that a regular file has when it is opened, read in blocks.

    Raises:
        UserError: a folder, pipe, socket or device, or more than `most` bytes.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size
        check_size(path, left, most)
        while block := file.read(min(left, 1 << 20)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (POSIX; other systems have no folder handles)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def orphaned_temps(folder: Path) -> list[Path]:
    """Temporary files under `folder` whose writer is dead: this host's vanished processes, or a day old."""
    return sorted(path for path in folder.rglob(f".*{TEMP_SUFFIX}") if _is_orphan(path))


def _is_orphan(path: Path) -> bool:
    try:
        host, pid, _ = path.name.removesuffix(TEMP_SUFFIX).rsplit(".", 1)[1].rsplit("-", 2)
        age = time.time() - path.stat().st_mtime
    except (IndexError, ValueError, FileNotFoundError):  # not one of ours, or renamed meanwhile
        return False
    return age > STALE_SECONDS or (host == _host() and not _alive(int(pid)))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return "".join(c if c.isalnum() or c == "-" else "_" for c in socket.gethostname()) or "host"
