"""Do the tests notice? Changes the library one place at a time and runs the tests of the changed package.

    python tests/mutation.py --seed 0 --count 150

A mutant dies when a test fails or hangs. Heavy libraries are imported once; every mutant is a fork of that process, in
a scratch copy of the tree. Survivors are printed as they are met; status 1 when more than 5 % of the mutants survive.
tests/mutation_survivors.md says why the known ones are equivalent.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "torchvision",
    "safetensors.torch",
    "scipy.special",
    "pytest",
    "PIL.Image",
)
RACE = ("race", "error_table", "stopping/racing", "stopping/schedules")
RACE_TESTS = ("race", "classifier", "replay", "clip_preselection")
JOB_TESTS = ("manifest", "folder", "runner", "prepare", "plan", "kill")


@dataclass(frozen=True)
class Area:
    """Modules of one idea, and the tests of their package."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


def _below(folder: str, names: tuple[str, ...], prefix: str = "") -> tuple[str, ...]:
    return tuple(f"{folder}/{prefix}{name}.py" for name in names)


AREAS = {
    "noise path": Area(("backbones/noise_path.py",), ("backbones/test_noise_path.py", "backbones/test_spec.py")),
    "features": Area(
        _below("backbones", ("features", "stored", "spec")),
        (*_below("backbones", ("spec", "stored"), "test_"), "backbones/conditioning"),
    ),
    "store": Area(("data/store",), ("data/store",)),
    "manifest": Area(_below("jobs", ("manifest", "folder")), _below("jobs", JOB_TESTS, "test_")),
    "share": Area(_below("jobs", ("rank", "prepare")), _below("jobs", JOB_TESTS, "test_")),
    "racing": Area(
        _below("classification", RACE), ("classification/stopping", *_below("classification", RACE_TESTS, "test_"))
    ),
    "fusion": Area(
        _below("generation", ("fusion", "windows", "sampling")),
        (*_below("generation", ("windows", "fusion", "labels"), "test_"), "parity/test_dginstyle.py"),
    ),
    "metrics": Area(("metrics",), ("metrics",)),
}
SLOW = ("test_compiled_networks_give_the_same_and_see_few_batch_sizes", "test_ten_thousand_items_need_no_more_memory")

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change of one module: edit `kind` of the node with this number in the order of `ast.walk`."""

    area: str
    module: str  # below perception/
    line: int
    node: int
    kind: str

    def tests(self) -> tuple[str, ...]:
        """Those of the area; the mirror of the module comes first."""
        package, name = self.module.rsplit("/", 1)
        mirror = f"{package}/test_{name}"
        rest = [test for test in AREAS[self.area].tests if test != mirror]
        return (mirror, *rest) if (ROOT / "tests" / mirror).exists() else tuple(rest)

    def source(self) -> str:
        """The changed module."""
        tree = ast.parse((ROOT / "perception" / self.module).read_text())
        node = list(ast.walk(tree))[self.node]
        if self.kind == "remove statement":
            return ast.unparse(_Swap(node, ast.copy_location(ast.Pass(), node)).visit(tree))
        changed = _edited(copy.deepcopy(node), self.kind)
        return ast.unparse(ast.fix_missing_locations(_Swap(node, changed).visit(tree)))

    def describe(self) -> str:
        """Place, and the changed code."""
        tree = ast.parse((ROOT / "perception" / self.module).read_text())
        node = list(ast.walk(tree))[self.node]
        before = ast.unparse(node).split("\n")[0]
        after = "" if self.kind == "remove statement" else ast.unparse(_edited(copy.deepcopy(node), self.kind))
        return f"{self.area}: {self.module}:{self.line} {self.kind}: `{before}` -> `{after.split(chr(10))[0]}`"


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def _edited(node: ast.AST, kind: str) -> ast.AST:
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.UnaryOp):
        return node.operand
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + (1 if kind == "constant + 1" else -1)
    elif isinstance(node, ast.Call) and kind == "min / max":
        assert isinstance(node.func, ast.Name)
        node.func.id = TWINS[node.func.id]
    elif isinstance(node, ast.Call):
        node.args[0], node.args[1] = node.args[1], node.args[0]
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    return node


def _kinds(node: ast.AST) -> list[str]:
    """The edits that fit a node."""
    if isinstance(node, ast.Compare):
        return ["comparison"] if len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS else []
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return ["arithmetic"] if type(node.op) in ARITHMETIC else []
    if isinstance(node, ast.BoolOp):
        return ["and / or"]
    if isinstance(node, ast.UnaryOp):
        return ["sign or not dropped"] if isinstance(node.op, ast.Not | ast.USub) else []
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            return ["boolean"]
        return ["constant + 1", "constant - 1"] if isinstance(node.value, int | float) else []
    if isinstance(node, ast.Call):
        twin = isinstance(node.func, ast.Name) and node.func.id in TWINS
        plain = len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args)
        return [*(["min / max"] if twin else []), *(["swap arguments"] if plain and not twin else [])]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return ["negate condition"]
    removable = isinstance(node, ast.AugAssign | ast.Break | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
    return ["remove statement"] if removable else []


def _passed_over(tree: ast.AST) -> set[int]:
    """Nodes that decide nothing: annotations, imports, assertions (`strict=` too), texts of errors, drawings."""
    skipped: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            skipped.append(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            skipped += [node] if "picture" in node.name else node.decorator_list
            if isinstance(node, ast.FunctionDef):
                skipped += [node.returns] if node.returns else []
        elif isinstance(node, ast.arg | ast.AnnAssign):
            skipped += [node.annotation] if node.annotation else []
        elif (isinstance(node, ast.keyword) and node.arg == "strict") or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            skipped.append(node)
    return {id(inner) for node in skipped for inner in ast.walk(node)}


def _modules(area: Area) -> Iterator[str]:
    for module in area.modules:
        place = ROOT / "perception" / module
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            yield path.relative_to(ROOT / "perception").as_posix()


def mutants(name: str) -> list[Mutant]:
    """All mutants of an area."""
    found = []
    for module in _modules(AREAS[name]):
        tree = ast.parse((ROOT / "perception" / module).read_text())
        over = _passed_over(tree)
        for number, node in enumerate(ast.walk(tree)):
            if id(node) not in over:
                found += [Mutant(name, module, node.lineno, number, kind) for kind in _kinds(node)]
    return found


def chosen(seed: int, count: int, areas: list[str]) -> list[Mutant]:
    """As many mutants of every area, drawn by the seed."""
    rng, picked = random.Random(seed), []
    for number, name in enumerate(areas):
        share = count // len(areas) + (number < count % len(areas))
        every = mutants(name)
        picked += rng.sample(every, min(share, len(every)))
    return picked


class Bench:
    """A scratch copy of the tree, in which one module at a time is changed."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self.patience = folder, patience
        for name in ("perception", "tests", "tools", "configs", "pyproject.toml"):
            place = ROOT / name
            copy_of = shutil.copytree if place.is_dir() else shutil.copy2
            copy_of(place, folder / name)

    def unchanged(self, tests: tuple[str, ...]) -> bool:
        """Whether the tests pass as things are; what they import and compile is kept for the runs to come."""
        sys.dont_write_bytecode = False
        passes = self.run(tests, {})
        sys.dont_write_bytecode = True  # a mutant may have the size and the second of another one
        names = self.folder / "imported.txt"
        for name in names.read_text().split() if names.exists() else ():
            with suppress(Exception):
                importlib.import_module(name)
        return passes

    def run(self, tests: tuple[str, ...], changed: dict[str, str]) -> bool:
        """Whether the tests pass with these modules."""
        places = {self.folder / "perception" / module: source for module, source in changed.items()}
        before = {path: (path.read_bytes(), path.stat()) for path in places}
        for path, source in places.items():
            path.write_text(source)
        try:
            return self._passes([str(self.folder / "tests" / test) for test in tests])
        finally:
            for path, (content, status) in before.items():
                path.write_bytes(content)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # its compiled form counts again

    def _passes(self, tests: list[str]) -> bool:
        child = os.fork()
        if not child:
            os.setsid()
            os._exit(self._pytest(tests))
        deadline = time.monotonic() + self.patience
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what its tests have started
        if not pid:
            os.waitpid(child, 0)
        return bool(pid) and status == 0

    def _pytest(self, tests: list[str]) -> int:
        import pytest

        sink = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.path.insert(0, str(self.folder))
        there = [test for test in tests if Path(test).exists()]
        unslow = ["-k", " and ".join(f"not {name}" for name in SLOW)]
        try:
            status = int(pytest.main([*there, "-x", "-q", "-p", "no:cacheprovider", *unslow]))
        except BaseException:
            return 1
        (self.folder / "imported.txt").write_text("\n".join(_libraries()))
        return status


def _libraries() -> list[str]:
    """Modules that this process has imported from libraries."""
    found = []
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None) or ""
        if "site-packages" in place and "pytest" not in name:
            found.append(name)
    return found


def load_heavy() -> None:
    """Import once what every fork needs."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    for name in ("AutoencoderKL", "UNet2DConditionModel", "DDIMScheduler", "ControlNetModel"):
        getattr(importlib.import_module("diffusers"), name)
    for name in ("CLIPTextModel", "CLIPTokenizer", "CLIPModel", "CLIPProcessor"):
        getattr(importlib.import_module("transformers"), name)


def main() -> int:
    """Run the pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--count", type=int, default=150, help="mutants in all (default: 150)")
    parser.add_argument("--area", choices=AREAS, action="append", help="of the library; may be repeated (default: all)")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds for the tests of one mutant")
    parser.add_argument("--list", action="store_true", help="print the mutants, and stop")
    args = parser.parse_args()
    picked = chosen(args.seed, args.count, args.area or list(AREAS))
    if args.list:
        print("\n".join(mutant.describe() for mutant in picked))
        return 0
    load_heavy()
    with tempfile.TemporaryDirectory(prefix="mutation") as folder:
        return report(Bench(Path(folder), args.patience), picked)


def report(bench: Bench, picked: list[Mutant]) -> int:
    """Meet every mutant; print survivors and counts."""
    for name in dict.fromkeys(mutant.area for mutant in picked):
        if not bench.unchanged(AREAS[name].tests):
            print(f"the tests of {name} fail without any change: {bench.folder / 'output.txt'}")
            print((bench.folder / "output.txt").read_text()[-3000:])
            return 2
    survivors = []
    for number, mutant in enumerate(picked, start=1):
        started = time.monotonic()
        alive = bench.run(mutant.tests(), {mutant.module: mutant.source()})
        survivors += [mutant] if alive else []
        verdict = "SURVIVES" if alive else "dies"
        print(f"{number}/{len(picked)} {verdict} ({time.monotonic() - started:.1f} s) {mutant.describe()}", flush=True)
    print(f"{len(picked) - len(survivors)} of {len(picked)} mutants die")
    return int(len(survivors) > 0.05 * len(picked))


if __name__ == "__main__":
    sys.exit(main())
