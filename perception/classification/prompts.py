"""Prompts of the classes: class names x templates, prompt files, and the published tables."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from perception.data.inputs import read_table, read_text
from perception.errors import UserError

DEFAULT_TEMPLATE = "a photo of a {}."

TABLES = {
    "aircraft": ("a photo of a {}, a type of aircraft.", "b531651a81fdcd93"),
    "cifar10": ("a blurry photo of a {}.", "5f1c579eb50b7abd"),
    "cifar100": ("a blurry photo of a {}.", "ae164e354a6a5bc4"),
    "flowers": ("a photo of a {}, a type of flower.", "208b39ad0ff55eac"),
    "food": ("a photo of {}, a type of food.", "f471408b72b7c79e"),
    "imagenet": ("a photo of a {}.", "667e985c62f31901"),
    "mnist": ("a photo of the number: '{}'.", "a122d46d4b2042de"),
    "objectnet": ("a photo of a {}.", "cf9828b1d781bb67"),
    "pets": ("a photo of a {}, a type of pet.", "6bcbb904d809eba6"),
    "stl10": ("a photo of a {}.", "62e4215765208dec"),
}
"""Published prompt tables: template and PromptSet.digest. Class names, in class index order: names/TABLE.txt.

imagenet: the names curated for CLIP. "missile" and "sunglasses" name two classes each, so their prompts occur twice;
PromptSet.names tells them apart by class index, "missile (657)". objectnet: the 113 folders that overlap ImageNet.
"""

_COLUMNS = ("prompt", "classname", "classidx")


@dataclass(frozen=True)
class PromptSet:
    """Prompts and the class each one speaks for; several prompts per class are several templates.

    Raises UserError for fewer than two classes: one candidate always wins.
    """

    prompts: tuple[str, ...]  # one per row; "" is allowed (an unconditional row)
    classes: tuple[int, ...]  # per row: position in `names`
    names: tuple[str, ...]  # class names
    indices: tuple[int, ...]  # per class: the index it has in the user's file, else its position

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise UserError(
                f"classification needs at least two classes, but {len(self.names)} was given; name one more"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over the prompts joined with newlines: equal tables, equal digests."""
        return hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:16]

    @property
    def is_numbered(self) -> bool:
        """Whether the user's file gives the classes other indices than their positions."""
        return self.indices != tuple(range(len(self.names)))

    def rows(self, name: int) -> tuple[int, ...]:
        """Row numbers of one class."""
        return self._rows.get(name, ())

    def select(self, classes: Sequence[int]) -> PromptSet:
        """Only these classes (positions in `names`), in the order given, with their prompts and indices."""
        rows = [(row, new) for new, c in enumerate(classes) for row in self.rows(c)]
        return PromptSet(
            prompts=tuple(self.prompts[row] for row, _ in rows),
            classes=tuple(new for _, new in rows),
            names=tuple(self.names[c] for c in classes),
            indices=tuple(self.indices[c] for c in classes),
        )

    def with_prompts(self, prompts: Sequence[Sequence[str]]) -> PromptSet:
        """The same classes with these prompts, in the order of `names`: for models that know classes, not text."""
        rows = [(prompt, c) for c, own in enumerate(prompts) for prompt in own]
        return replace(self, prompts=tuple(prompt for prompt, _ in rows), classes=tuple(c for _, c in rows))

    def find(self, label: str) -> int:
        """Return the class a folder name means: equal up to case, `_` and `-`, else a class index written as a number.

        Raises UserError naming the classes there are.
        """
        found = self._by_name.get(_plain(label))
        if found is None and label.isdecimal():
            found = self._by_index.get(int(label))
        if found is not None:
            return found
        raise UserError(
            f"the folder name {label!r} is none of the classes ({_some(self.names)}); "
            "rename the folder or give the class a prompt"
        )

    @cached_property
    def _rows(self) -> dict[int, tuple[int, ...]]:
        rows: dict[int, list[int]] = {}
        for row, c in enumerate(self.classes):
            rows.setdefault(c, []).append(row)
        return {c: tuple(own) for c, own in rows.items()}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """The first class of each name, as `find` compares them."""
        return {_plain(name): c for c, name in reversed(list(enumerate(self.names)))}

    @cached_property
    def _by_index(self) -> dict[int, int]:
        return {index: c for c, index in reversed(list(enumerate(self.indices)))}


def class_prompts(names: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> PromptSet:
    """Fill every template with every class name. Rows are ordered by class, then by template.

    Articles are not corrected ("a airplane"): the published tables are made that way. Raises UserError for an empty
    or repeated name or template, and for a template without exactly one `{}`.
    """
    names = [name.strip() for name in names]
    if not all(names):
        raise UserError("a class name is empty; separate the names with single commas, such as --classes cat,dog")
    _refuse_repeated(names, "class name")
    return _filled(names, templates)


def prompt_table(name: str, templates: Sequence[str] | None = None) -> PromptSet:
    """Return a published table by name, or its class names in other templates.

    Raises UserError naming the known tables, and as `class_prompts` for a bad template.
    """
    if name not in TABLES:
        raise UserError(f"no prompt table or file {name!r}; give a .csv or .txt file or one of {', '.join(TABLES)}")
    text = (resources.files("perception.classification") / "names" / f"{name}.txt").read_text("utf-8")
    names = text.splitlines()
    filled = _filled(names, templates or (TABLES[name][0],))
    return replace(filled, names=_told_apart(names, range(len(names))))


def _told_apart(names: Sequence[str], indices: Iterable[int]) -> tuple[str, ...]:
    """Names that several classes have come with the index of each, "missile (657)"."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({c})" for c, name in zip(indices, names, strict=True))


def _filled(names: Sequence[str], templates: Sequence[str]) -> PromptSet:
    _refuse_repeated(templates, "template")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"the template {template!r} must contain {{}} once, where the class name goes")
    prompts = tuple(template.replace("{}", name) for name in names for template in templates)
    classes = tuple(c for c in range(len(names)) for _ in templates)
    return PromptSet(prompts, classes, tuple(names), tuple(range(len(names))))


def read_prompts(source: str | Path, templates: Sequence[str] | None = None) -> PromptSet:
    """Read a prompt file, or a published table when `source` is one of TABLES and no such file exists.

    Without `templates` a table comes in its own, and a list of classes in DEFAULT_TEMPLATE.

    - `.csv` with the columns prompt, classname, classidx: one row per candidate. Rows of equal classidx are
      templates of one class (its name is the first row's); an empty prompt is the empty prompt. Classes may share
      a prompt or a name, and are then told apart by their classidx, "missile (657)".
    - any other file: one class name per line, filled into `templates`; blank lines are left out.

    Raises UserError for a file that is missing, not UTF-8, empty, without a needed column or with a bad classidx, and
    for templates beside a .csv.
    """
    path = Path(source)
    if not os.path.exists(path) or path.is_dir():
        return prompt_table(str(source), templates)
    text = read_text(path, "the prompt file ")
    if not text.strip():
        raise UserError(f"the prompt file {path} is empty; give it at least two classes")
    if path.suffix.lower() != ".csv":
        return class_prompts([line for line in text.splitlines() if line.strip()], templates or (DEFAULT_TEMPLATE,))
    if templates is not None:
        raise UserError(
            f"the prompts of {path} are whole sentences, so templates have no place in them; leave them out"
        )
    return _from_csv(path)


def _from_csv(path: Path) -> PromptSet:
    columns, table = read_table(path, "the prompt file ")
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise UserError(
            f"the prompt file {path} has no column {' and no column '.join(missing)}; "
            f"its first line must be {','.join(_COLUMNS)}"
        )
    rows = [(row["prompt"] or "", (row["classname"] or "").strip(), _index(path, row)) for row in table]
    names: dict[int, str] = {}
    prompts: dict[int, list[str]] = {}
    for prompt, name, index in rows:
        names.setdefault(index, name or str(index))
        prompts.setdefault(index, []).append(prompt)
    for own in prompts.values():
        _refuse_repeated(own, f"prompt of {path}")
    distinct = _told_apart(list(names.values()), names)
    _refuse_repeated(distinct, f"class name of {path}")
    order = {index: position for position, index in enumerate(names)}
    classes = tuple(order[index] for _, _, index in rows)
    return PromptSet(tuple(prompt for prompt, _, _ in rows), classes, distinct, tuple(names))


def _index(path: Path, row: Mapping[str, str | None]) -> int:
    try:
        return int(row["classidx"] or "")
    except (TypeError, ValueError):
        raise UserError(
            f"the prompt file {path} has the classidx {row['classidx']!r} for {row['prompt']!r}; "
            "it must be a whole number"
        ) from None


def _refuse_repeated(names: Sequence[str], what: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"the {what} {repeated[0]!r} is given twice; every candidate must differ, so leave one out")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... {len(names)} in all" if len(names) > 8 else "")
