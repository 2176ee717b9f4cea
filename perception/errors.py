"""The one exception that users are meant to read, and how a tool ends with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perception.allocator import keep_freed_memory

# C0, DEL, C1; line and paragraph separators; marks, embeddings, overrides and isolates of writing direction; surrogates
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NEXT_LINE = "\n  "  # between the parts of a long message


class UserError(ValueError):
    """Bad input, in one sentence: what was wrong, what was expected, how to fix it.

    Commands print the sentence and exit with status 2; the job runner writes it into the item's manifest line.
    """


class PromptTooLongError(UserError):
    """A text has more tokens than its encoder takes; `fact` says which, for callers with another way out."""

    def __init__(self, fact: str) -> None:
        super().__init__(f"{fact}; shorten it, or pass truncate=True to cut it")
        self.fact = fact

    def __reduce__(self) -> tuple[type, tuple[str]]:  # pickled by worker processes
        return type(self), (self.fact,)


def printable(text: str) -> str:
    """Text on one line that a terminal shows as it is: what moves its cursor, colours it or turns it round is escaped.

    Names of files go through this before they are printed; "\\x1b[2J" in one would clear the screen. Bytes that are no
    text in the file system's encoding come as "\\udc80" to "\\udcff".
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def sentence_of(error: UserError) -> str:
    """The sentence of an error as it is printed; its further lines stay lines."""
    return _NEXT_LINE.join(map(printable, str(error).split(_NEXT_LINE)))


@contextmanager
def foreign_errors(explain: Callable[[str], UserError], longest: int = 200) -> Iterator[None]:
    """Inside, whatever a library raises about the user's file that it builds from becomes one UserError.

    `explain` makes it of the reason, one line of at most `longest` characters. Constructors raise anything, the
    tokenizers library a bare Exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # a full GPU is no fault of a file
            raise
        raise explain(one_line(error, longest)) from error


def one_line(error: BaseException, longest: int = 200) -> str:
    """What an error says, in one line; with its name where it says a key alone, or nothing."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return (f"{type(error).__name__} {text}" if isinstance(error, LookupError) or not text else text)[:longest]


def exit_status(tool: str, work: Callable[[], object], again: str = "run the same command again to continue") -> int:
    """Do the work of a script in tools/: 0, else one sentence on stderr and 2 (bad input) or 130 (Ctrl-C)."""
    keep_freed_memory()
    try:
        work()
    except UserError as error:
        print(f"{tool}: {sentence_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{tool}: interrupted; {again}", file=sys.stderr)
        return 130
    return 0
