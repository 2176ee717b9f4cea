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
from pathlib import Path, PurePosixPath

from perception.data.inputs import check_size, open_regular
from perception.errors import UserError

TEMP_SUFFIX = ".tmp"
STALE_SECONDS = 24 * 3600.0  # a temporary file of another host is an orphan after a day
NAME_BYTES = 255  # of a name, on the file systems in use
_TEMP_BYTES = 110  # what a temporary name has beside the name itself: host, process, number
_HOST_CHARACTERS = 64
_SUFFIX_BYTES, _HASH_DIGITS = 16, 16
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.EINVAL,
)
_counter = itertools.count()


class NoSpaceError(UserError):
    """The disk, the user's quota or the limit of a file is full; the job stops: every further item would fail too."""


class NameTooLongError(UserError):
    """The path of an output is longer than the system takes; other items may have shorter ones."""


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk (NoSpaceError) and a forbidden or impossible `path` (UserError) into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise NameTooLongError(
                f"{path} is too long a name for the file system; choose a shorter one, or an output folder with a "
                "shorter path."
            ) from error
        if error.errno == errno.EFBIG:
            raise NoSpaceError(
                f"{path} would be larger than files may be here; raise the limit (ulimit -f) and run the same command "
                "again."
            ) from error
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
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise UserError(f"{path} is a device or a pipe, which a file would replace; choose another output.")
        name = fitting(path.name, _TEMP_BYTES)
        temporary = path.with_name(f".{name}.{_host()}-{os.getpid()}-{next(_counter)}{TEMP_SUFFIX}")
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


def fitting(path: str, reserve: int = 0) -> str:
    """A POSIX path whose names a file system takes: 255 bytes each, less `reserve` for what is put before or behind.

    A longer name keeps its beginning and its suffix and gets a hash of the whole in between, so that different names
    stay different; others stay as they are. The same on every machine.
    """
    return "/".join(_fitting(name, NAME_BYTES - reserve) for name in path.split("/"))


def _fitting(name: str, most: int) -> str:
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(os.fsencode(suffix)) <= _SUFFIX_BYTES else ""
    end = f"~{hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]}{suffix}"
    left = most - len(os.fsencode(end))
    return next(name[:cut] for cut in range(left, -1, -1) if len(os.fsencode(name[:cut])) <= left) + end


def fresh_folder(folder: Path) -> Path:
    """Where a folder is made before it takes its name."""
    return folder.with_name(f".{fitting(folder.name, len('..new'))}.new")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its name, and its place if there is one, at the end of the block.

    Where the block fails, the old folder stays and the new one goes.
    """
    fresh = fresh_folder(folder)
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


def write_changed(path: Path, content: bytes) -> None:
    """`write_atomic`, unless the file holds these bytes already."""
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


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
    return "".join(c if c.isalnum() or c == "-" else "_" for c in socket.gethostname())[:_HOST_CHARACTERS] or "host"
