"""The `perception` program: finds the command, runs it, and turns errors into one sentence."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from textwrap import indent
from types import FrameType
from typing import NoReturn

from perception import __version__
from perception.allocator import keep_freed_memory
from perception.commands.arguments import MINI
from perception.errors import PromptTooLongError, UserError, printable, sentence_of

COMMANDS = {
    "extract": "perception.commands.extract",
    "classify": "perception.commands.classify.command",
    "adapt": "perception.commands.adapt",
    "match": "perception.commands.match",
    "segment": "perception.commands.segment",
    "depth": "perception.commands.depth",
    "generate": "perception.commands.generate.command",
    "score": "perception.commands.score",
    "sweep": "perception.commands.sweep",
    "store": "perception.commands.store",
    "convert": "perception.commands.convert",
    "world": "perception.commands.world",
}
ANEW = ("adapt", "convert", "world")  # what was interrupted keeps nothing
USAGE_ERROR, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (2: bad input, 130: interrupted, 141: nobody reads)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _counting_interrupts() as interrupts:
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            return _interrupted(arguments)
        except Exception as error:
            if interrupts:  # extension modules may turn KeyboardInterrupt into an error of their own
                return _interrupted(arguments)
            return _explain(error)


def _run(arguments: list[str]) -> int:
    _print_any_name()
    keep_freed_memory()
    status = _dispatch(arguments)
    sys.stdout.flush()
    return status


def _explain(error: Exception) -> int:
    """Print the sentence of an error that the user can mend; any other one is raised again."""
    if isinstance(error, PromptTooLongError):
        return _complain(printable(f"{error.fact}; shorten it."), USAGE_ERROR)
    if isinstance(error, UserError):
        return _complain(sentence_of(error), USAGE_ERROR)
    if isinstance(error, BrokenPipeError):  # `perception ... | head`; Python's flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    sentence = _of_system(error) if isinstance(error, OSError) else None
    if sentence is None:
        raise error
    return _complain(printable(sentence), USAGE_ERROR)


def _interrupted(arguments: Sequence[str]) -> int:
    again = "start over" if arguments and arguments[0] in ANEW else "resume"
    return _complain(f"interrupted; run the same command again to {again}.", INTERRUPTED)


@contextmanager
def _counting_interrupts() -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt as ever, and is noted in the list."""
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    handler = signal.getsignal(signal.SIGINT)
    own = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if own:
        signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        if own:
            signal.signal(signal.SIGINT, handler)


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"perception {__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; choose one of {', '.join(COMMANDS)}."
        raise UserError(f"Unknown command '{name}'{hint}")
    module = import_module(COMMANDS[name])
    parser = _Parser(
        prog=f"perception {name}",
        description=module.SUMMARY,
        epilog=f"examples:\n{indent(module.EXAMPLES, '  ')}\n\n{MINI}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments[1:]))


class _Parser(argparse.ArgumentParser):
    """Shows the user's own words as a terminal can."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with status 2."""
        super().error(printable(message))


def _of_system(error: OSError) -> str | None:
    """One sentence for what the system refuses, where it says of which file; the disk may be full without that."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"No space left ({error.filename or 'disk full'}): free space and run the same command again."
    if "temporary directory" in str(error):  # of tempfile, where nothing can be written in any
        return f"{error.strerror}; free space there, or name a folder in TMPDIR."
    if error.filename is None:
        return None
    return f"{error.filename} cannot be used ({error.strerror}); check the path and its permissions."


def _print_any_name() -> None:
    """File names that are no UTF-8 are printed with escapes, where the locale would refuse them."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {import_module(path).SUMMARY}" for name, path in COMMANDS.items()]
    lines = [
        "usage: perception COMMAND ...",
        "",
        "Perception from frozen diffusion models.",
        "",
        "commands:",
        *rows,
        "",
        "`perception COMMAND --help` describes one command. Jobs resume: run the same command again.",
        MINI,
    ]
    return "\n".join(lines)


def _complain(sentence: str, status: int) -> int:
    print(f"perception: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
