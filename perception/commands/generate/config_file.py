"""Options of `perception generate` from a file: Python, JSON or TOML with the names of the command line."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from perception.commands.arguments import size_pair
from perception.commands.generate.command import add_arguments
from perception.data.inputs import read_json, read_text
from perception.errors import UserError


def arguments_of(path: str | Path, behind: Sequence[str] = ()) -> list[str]:
    """The command line that an options file stands for, less the repeatable options that stand `behind` it.

    A name is an option without its dashes, with underscores inside. Lists repeat an option that may be repeated, and
    become 'A,B' (of `size_pair`: 'HxW') elsewhere; tables become NAME=TEXT; true sets a switch, false leaves it out.
    Options behind the file win: a list there takes the place of the file's, a table's names are joined by it, and
    domains there leave out the file's templates of others.

    Raises:
        UserError: the file cannot be read, or names an option that there is not.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    domains = parser.parse_known_args(list(behind))[0].domains
    actions = {
        flag.removeprefix("--").replace("-", "_"): action
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    arguments: list[str] = []
    for name, value in _read(Path(path)).items():
        if name not in actions:
            near = get_close_matches(name, actions, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`perception generate --help` lists all options"
            raise UserError(f"{path} sets {name!r}, which is no option of `perception generate`; {hint}")
        flag = f"--{name.replace('_', '-')}"
        if name == "template" and domains and isinstance(value, Mapping):
            value = {domain: text for domain, text in value.items() if domain in domains}
        again = isinstance(actions[name], argparse._AppendAction) and not isinstance(value, Mapping)
        if not (again and any(word.split("=")[0] == flag for word in behind)):
            arguments += _words(flag, actions[name], value)
    return arguments


def _words(flag: str, action: argparse.Action, value: Any) -> list[str]:
    """The words of one option."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"the option {flag} is a switch, but its value is {value!r}; write true or false")
        return [flag] if value else []
    if isinstance(value, Mapping):
        value = [f"{key}={text}" for key, text in value.items()]
    if not isinstance(value, (list, tuple)):
        value = [value]
    elif not isinstance(action, argparse._AppendAction):
        value = [("x" if action.type is size_pair else ",").join(map(str, value))]
    return [f"{flag}={one}" for one in value]  # one word: a value may begin with a dash


def _read(path: Path) -> dict[str, Any]:
    readers = {".py": _python, ".json": _json, ".toml": _toml}
    if path.suffix not in readers:
        raise UserError(f"{path} is no options file; expected one of {', '.join(readers)}")
    try:
        options = readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # whatever a Python file may raise
        raise UserError(f"the options file {path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(options, dict):
        raise UserError(f"the options file {path} holds no names and values; see `python tools/generate_dataset.py -h`")
    return options


def _python(path: Path) -> dict[str, Any]:
    """The public names of a Python file but what it imported or defined."""
    found = runpy.run_path(str(path))
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and not callable(value)
    }


def _json(path: Path) -> Any:
    return read_json(path)


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        raise UserError(f"{path} is TOML, which needs Python 3.11; write the options as JSON or Python")
    import tomllib

    return tomllib.loads(read_text(path))
