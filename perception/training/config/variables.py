"""Names at the top level of a config file that nothing reads, found in its source.

New-style configs are programs: `crop = (192, 256)` in a child file does not change what the base file computed from
its own `crop`, and a mistyped `train_dataloder = ...` is just another variable. mmengine says nothing about either.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from pathlib import Path

from perception.errors import UserError


def unread_variables(config: Path, known: Set[str]) -> dict[str, str]:
    """Top-level names of a config file and its bases that are neither in `known` nor read by the files that see them.

    Returns: name -> reason, where the reason tells apart a variable of a base file from a plain unknown name.
    Raises: UserError: a file is missing or no valid Python.
    """
    tree = _parse(config)
    bases = [_parse(base) for base in _all_bases(config, tree)]
    below = set().union(*(_assigned(base) for base in bases)) if bases else set()
    unread = {
        name: "is a variable of a base file, which has already used its own value" if name in below else "is unknown"
        for name in _assigned(tree) - _read(tree) - known
    }
    read_anywhere = _read(tree).union(*(_read(base) for base in bases))
    return unread | dict.fromkeys(below - read_anywhere - known, "is unknown")


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise UserError(f"the config {path} does not exist; check the path (configs/README.md lists them)") from error
    except (OSError, ValueError) as error:  # a folder, or no text
        raise UserError(f"the config {path} cannot be read ({error}); expected a Python file") from error
    except SyntaxError as error:
        raise UserError(f"the config {path} is no valid Python: {error.msg} in line {error.lineno}") from error


def _all_bases(path: Path, tree: ast.Module) -> Iterator[Path]:
    """Base files of `with read_base(): from ..x import *`; bases inside installed packages are left alone."""
    for statement in tree.body:
        for node in ast.walk(statement) if isinstance(statement, ast.With) else ():
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                folder = path.resolve().parents[node.level - 1]
                base = folder.joinpath(*node.module.split(".")).with_suffix(".py")
                yield base
                yield from _all_bases(base, _parse(base))


def _assigned(tree: ast.Module) -> set[str]:
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, (ast.AnnAssign, ast.AugAssign))]
    return {
        n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _read(tree: ast.Module) -> set[str]:
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
