"""Files that a user names: regular ones alone, of bounded size, and one sentence for whatever is wrong with them.

A pipe or a device may block for ever or never end. So a file is looked at before it is opened and, as another one may
have taken its place, once more when it is open; reading ends where the file ended then.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from perception.data.documents import parse_json
from perception.errors import UserError

MOST_BYTES = 2 << 30  # of a file that is read whole; the largest image that Pillow opens has 1.4 GB of pixels
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path, expected: str = "a file") -> BinaryIO:
    """Open a regular file to read its bytes; never waits for another program.

    Raises:
        UserError: a folder, pipe, socket or device, also behind a link, or a name that no file can have.
        OSError: as `open` does, for example FileNotFoundError.
    """
    try:
        _check_regular(os.stat(path), path, expected)
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller's
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; {expected} was expected.") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(path)!r} is no name of a file ({error}); check the path.") from error
    try:
        _check_regular(os.fstat(file.fileno()), path, expected)
    except UserError:
        file.close()
        raise
    return file


def read_input(path: str | Path, what: str = "", expected: str = "a file", most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file, at most those that it has when it is opened.

    Args:
        path: the file.
        what: stands before its name in sentences, such as "the label map ".
        expected: kind of file, in words.
        most: bytes.

    Raises:
        UserError: it is missing, unreadable, no regular file, or larger than `most`.
    """
    try:
        with open_regular(path, expected) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(f"{what}{path}", size, most)
            return file.read(size)
    except FileNotFoundError as error:
        raise UserError(f"{what}{path} does not exist; check the path.") from error
    except OSError as error:
        raise UserError(f"{what}{path} cannot be read ({error.strerror or error}); check its permissions.") from error


def check_size(name: str | Path, size: int, most: int | None) -> None:
    """UserError where a file has more than `most` bytes."""
    if most is not None and size > most:
        raise UserError(
            f"{name} has {size / 1e9:.1f} GB; at most {most / 1e9:.1f} GB are read, so give a smaller file."
        )


def read_text(path: str | Path, what: str = "") -> str:
    """The text of a regular UTF-8 file, with or without a byte order mark. Raises UserError as `read_input`."""
    content = io.BytesIO(read_input(path, what, "a text file"))
    try:
        return io.TextIOWrapper(content, "utf-8-sig").read()  # any line end becomes a newline
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {what}{path} ({error}); it must be a readable UTF-8 text file") from error


def read_json(path: str | Path, what: str = "") -> Any:
    """The document of a JSON file. Raises UserError as `read_text`, and where it is no JSON or too deep."""
    return parsed_json(read_text(path, what), f"{what}{path}")


def parsed_json(text: str, name: str) -> Any:
    """A JSON document. Raises UserError naming `name` where it is none, or nested deeper than Python goes."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{name} is no JSON ({error}); correct it or make it anew") from error


def read_table(path: str | Path, what: str = "") -> tuple[list[str], list[dict[str, str | None]]]:
    """Column names and rows of a CSV file; None where a row is too short.

    Raises:
        UserError: as `read_text`, and where it is no CSV, or has a cell of more than 131,072 characters.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, what), newline=""))
    try:
        return list(reader.fieldnames or ()), [{key: row[key] for key in row if key is not None} for row in reader]
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of {what}{path} is no CSV ({error}); a quote may be left open, so correct it"
        ) from error


def _check_regular(status: os.stat_result, path: str | Path, expected: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder; {expected} was expected.")
    kind = next((words for test, words in _KINDS if test(status.st_mode)), "no regular file")
    raise UserError(f"{path} is {kind}; {expected} was expected: copy what it holds into a regular file.")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
