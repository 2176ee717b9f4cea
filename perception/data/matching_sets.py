"""Files with captions for images: examples (Winoground) and captions of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.inputs import parsed_json, read_table, read_text
from perception.errors import UserError

_SUFFIXES = ("", ".png", ".jpg", ".jpeg")
_TAGS = ("collapsed_tag", "tag")  # Winoground has both; the collapsed one is Object, Relation or Both


@dataclass(frozen=True)
class MatchingExample:
    """Captions and images of which caption j belongs to image j; more of one kind are distractors."""

    id: str
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    tag: str | None = None


@dataclass(frozen=True)
class CaptionList:
    """Captions to compare with every image, and the image that each belongs to."""

    captions: tuple[str, ...]
    images: tuple[str | None, ...]  # per caption: the name of its image in the file; None: not said


def read_examples(path: str | Path, folder: str | Path | None = None) -> list[MatchingExample]:
    """Read matching examples, one per row of a .csv or line of a .jsonl file, in the order of the file.

    - .jsonl: {"images": [...], "captions": [...]} or image_0, image_1, caption_0, caption_1, ... as in Winoground's
      examples.jsonl; .csv: columns image_0, ..., caption_0, ... (empty cells are left out).
    - "id" (default: the row number) names the example; "collapsed_tag" or "tag" its group.
    - Images are looked for below `folder`, else below the file's folder and its sub-folder "images", as they are named
      or with .png, .jpg or .jpeg behind.

    Raises:
        UserError: an unreadable file, a row without an image or caption, with neither two images nor two captions, or
        with an id that came before, or an image that is not there.
    """
    path = Path(path)
    folders = [Path(folder)] if folder is not None else [path.parent, path.parent / "images"]
    examples = [_example(path, number, row, folders) for number, row in enumerate(_rows(path))]
    if not examples:
        raise UserError(f"{path} holds no examples; give it a line with images and captions for each")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"{path} has two examples with the id {example.id!r}; every id must differ")
        seen.add(example.id)
    return examples


def read_captions(path: str | Path) -> CaptionList:
    """Read captions for a folder of images.

    - .csv with the columns image, caption (a row per caption), or .jsonl with {"image": ..., "caption": ...} or
      {"image": ..., "captions": [...]}: each caption belongs to that image.
    - any other file: one caption per line, blank lines left out; nothing is said about images.

    Raises:
        UserError: an unreadable or empty file, or a row without an image or caption.
    """
    path = Path(path)
    if path.suffix.lower() not in _ROWS:
        pairs: list[tuple[str | None, str]] = [(None, line.strip()) for line in read_text(path).splitlines()]
        pairs = [pair for pair in pairs if pair[1]]
    else:
        pairs = [pair for number, row in enumerate(_rows(path)) for pair in _captions(path, number, row)]
    if not pairs:
        raise UserError(f"{path} holds no captions; give it a caption per line")
    return CaptionList(tuple(caption for _, caption in pairs), tuple(image for image, _ in pairs))


def _example(path: Path, number: int, row: Mapping[str, Any], folders: Sequence[Path]) -> MatchingExample:
    images, captions = _listed(row, "image"), _listed(row, "caption")
    where = f"row {number + 1} of {path}"
    if not images or not captions or len(images) + len(captions) < 3:
        raise UserError(
            f"{where} has {len(images)} images and {len(captions)} captions; "
            "expected both, and two or more of one of them (images and captions, or image_0, caption_0, caption_1, ...)"
        )
    tag = next((str(row[key]) for key in _TAGS if row.get(key)), None)
    files = tuple(_found(name, folders, where) for name in images)
    return MatchingExample(str(row.get("id", number)), files, tuple(captions), tag)


def _captions(path: Path, number: int, row: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    image, captions = row.get("image"), _listed(row, "caption")
    if not image or not captions:
        raise UserError(f"row {number + 1} of {path} needs an image and a caption; its keys are {', '.join(row)}")
    return [(str(image), caption) for caption in captions]


def _listed(row: Mapping[str, Any], kind: str) -> list[str]:
    """The entries of `images`, of `image`, and of image_0, image_1, ... in the order of their numbers."""
    numbered = sorted((int(m[1]), key) for key in row if (m := re.fullmatch(rf"{kind}_?(\d+)", key)))
    values = [row[key] for _, key in numbered]
    for key in (f"{kind}s", kind):
        value = row.get(key)
        values += value if isinstance(value, list) else [value]
    return [str(value).strip() for value in values if value is not None and str(value).strip()]


def _found(name: str, folders: Sequence[Path], where: str) -> Path:
    places = [folder / f"{name}{suffix}" for folder in folders for suffix in _SUFFIXES]
    for place in places:
        if os.path.isfile(place):
            return place
    raise UserError(f"the image {name!r} of {where} is not below {folders[0]}; check the path or name its folder")


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    reader = _ROWS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is neither .csv nor .jsonl; give a file with a row per example")
    return reader(path)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    _, rows = read_table(path)
    return [{key: value for key, value in row.items() if key and value} for row in rows]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        row = parsed_json(line, f"line {number} of {path}")
        if not isinstance(row, dict):
            raise UserError(f"line {number} of {path} is a {type(row).__name__}; give one object per line")
        rows.append(row)
    return rows


_ROWS = {".csv": _csv_rows, ".jsonl": _json_rows}
