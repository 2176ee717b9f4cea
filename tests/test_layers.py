"""The floor plan of `perception/`: who may import whom, and how large a file or a function may be.

`python tests/test_layers.py` prints the number of files and their median length.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent / "perception"
MOST_LINES, MOST_PARAMETERS, MOST_LINES_OF_A_FUNCTION = 400, 12, 60

# A module may import those above it, never those below it, nor another package of its own row.
# Names are packages or modules; the longest name that fits counts.
ORDER = (
    ("perception", "lazy", "errors", "allocator", "tasks"),  # "perception" itself holds lazy names alone
    ("checks",),
    ("data",),
    ("metrics",),
    ("jobs",),
    ("backbones",),
    ("conditioning",),
    ("encoders",),
    ("classification", "segmentation", "depth", "captioning", "generation"),
    ("curation",),
    ("training",),
    ("registry", "convert"),
    ("commands",),
    ("__main__",),
)
MM = ("mmengine", "mmcv", "mmseg", "mmdet")
MM_USERS = ("training", "convert.networks")  # and registry.py, which imports training alone
BASES = ("perception", "lazy", "errors", "allocator", "tasks")  # they may import each other

# What is wrong today, and the step of the redesign that mends it. A line that is no longer true must go.
EXCEPTIONS: Mapping[str, str] = {
    "jobs.images imports backbones.typicality": "step 6: one report of all jobs",
    "circle: encoders.stored encoders.vpd.checks encoders.vpd.encoder": "step 3",
    "depth.net:DepthNet.__init__ has too many parameters": "step 3: build_encoder",
    "segmentation.referring:ReferringNet.__init__ has too many parameters": "step 3: build_encoder",
    "encoders.vpd.encoder:VPD.__init__ has too many parameters": "step 3: build_encoder",
    "training.models.features:VPDFeatures.__init__ has too many parameters": "step 3: build_encoder",
    "classification.few_shot:fit_class_tokens has too many parameters": "step 8",
    "training.data.generator_data:ControlCrops.__init__ has too many parameters": "step 7: records",
    "training.models.generators:ControlGenerator.__init__ has too many parameters": "step 8",
}


@cache
def modules() -> dict[str, Path]:
    """All modules by name, without "perception." in front."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".") or "perception"] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    """The parsed module."""
    return ast.parse(modules()[name].read_text())


def imported(name: str) -> Iterator[str]:
    """Full names of all that a module imports, anywhere in it: in functions and for type checking, too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of `perception` that it imports; a name out of a module counts for the module."""
    graph: dict[str, set[str]] = {}
    for name in modules():
        own = (full.removeprefix("perception.") for full in imported(name) if full.split(".")[0] == "perception")
        graph[name] = {module_of(target) for target in own} - {name}
    return graph


def module_of(target: str) -> str:
    """The module that a full name lies in."""
    while target not in modules():
        target = target.rpartition(".")[0] or "perception"
    return target


def place(name: str) -> tuple[int, str]:
    """The row of a module in ORDER, and the entry it falls under."""
    fits = [
        (row, entry) for row, entries in enumerate(ORDER) for entry in entries if f"{name}.".startswith(f"{entry}.")
    ]
    assert fits, f"{name} stands nowhere in ORDER"
    return max(fits, key=lambda fit: len(fit[1]))


def backward_imports() -> Iterator[str]:
    """Imports of what stands below, or beside."""
    for name, targets in imports().items():
        row, entry = place(name)
        for target in targets:
            other_row, other = place(target)
            if other_row > row or (other_row == row and other != entry and entry not in BASES):
                yield f"{name} imports {target}"


def circles() -> Iterator[str]:
    """Groups of modules that all reach each other by imports."""
    reach = {name: reached(name) for name in modules()}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in modules()}
    yield from (f"circle: {' '.join(sorted(group))}" for group in groups if group)


def reached(start: str) -> set[str]:
    """All modules that importing `start` leads to."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = imports()[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def mm_imports() -> Iterator[str]:
    """Uses of mmengine and its family outside training."""
    for name in modules():
        if not any(f"{name}.".startswith(f"{user}.") for user in MM_USERS):
            yield from (f"{name} imports {full}" for full in imported(name) if full.split(".")[0] in MM)


def long_files() -> Iterator[str]:
    """Files above the limit."""
    yield from (f"{name} is too long" for name, count in lengths().items() if count > MOST_LINES)


def lengths() -> dict[str, int]:
    """Lines of every file."""
    return {name: len(path.read_text().splitlines()) for name, path in modules().items()}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions by module and name, methods as Class.name."""
    for name in modules():
        owners = {
            id(child): node.name
            for node in ast.walk(tree(name))
            if isinstance(node, ast.ClassDef)
            for child in node.body
        }
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                owner = owners.get(id(node))
                yield f"{name}:{owner}.{node.name}" if owner else f"{name}:{node.name}", node


def wide_functions() -> Iterator[str]:
    """Functions with too many parameters; self and cls do not count."""
    for name, node in functions():
        parts = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = len([part for part in parts if part.arg not in ("self", "cls")])
        count += (node.args.vararg is not None) + (node.args.kwarg is not None)
        if count > MOST_PARAMETERS:
            yield f"{name} has too many parameters"


def long_functions() -> Iterator[str]:
    """Functions above the limit, from `def` to the last line."""
    for name, node in functions():
        assert node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
            yield f"{name} is too long"


def jobs_of_commands() -> Iterator[str]:
    """Job classes (those with a method `prepare`) that lie in `commands/`, where the library cannot reach them."""
    for name in modules():
        for node in tree(name).body if name.startswith("commands.") else ():
            if isinstance(node, ast.ClassDef) and not is_protocol(node) and "prepare" in methods(node):
                yield f"{name}:{node.name} is a job"


def is_protocol(node: ast.ClassDef) -> bool:
    """Whether a class only says what others have."""
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def methods(node: ast.ClassDef) -> set[str]:
    """Names of the methods that a class itself defines."""
    return {child.name for child in node.body if isinstance(child, ast.FunctionDef)}


RULES = (
    backward_imports,
    circles,
    mm_imports,
    long_files,
    wide_functions,
    long_functions,
    jobs_of_commands,
)


@cache
def faults(rule: Callable[[], Iterator[str]]) -> frozenset[str]:
    """What breaks one rule."""
    return frozenset(rule())


@pytest.mark.parametrize("rule", RULES)
def test_nothing_new_breaks_a_rule(rule):
    assert sorted(faults(rule) - set(EXCEPTIONS)) == []


def test_every_exception_is_needed():
    assert sorted(set(EXCEPTIONS).difference(*map(faults, RULES))) == []


if __name__ == "__main__":
    counts = lengths().values()
    print(f"{len(counts)} files, {sum(counts)} lines, median {median(counts):g}")
