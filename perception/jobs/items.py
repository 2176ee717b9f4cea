"""The items of a job: image files by folder, with ids that do not depend on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perception.errors import UserError

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work. Its id names it in the manifest; the content of `path` (if any) is its identity."""

    id: str
    path: Path | None = None
    label: str | None = None


def image_items(inputs: Sequence[str | Path], out: Path | None = None) -> list[Item]:
    """Image files below folders (recursively, by suffix) and files named directly (any suffix), sorted by id.

    The id is the POSIX path relative to the one folder given, or to the common parent of several inputs. Hidden files
    and folders are passed over, and so is `out`, where the job writes; a file reached twice counts once.

    Raises:
        UserError: an input does not exist or cannot be listed, or a folder holds no image.
    """
    if not inputs:
        raise UserError("No input was given; name at least one image file or folder.")
    roots = [Path(path) for path in inputs]
    found = {path: None for root in roots for path in _images_below(root, out)}
    parent = Path(os.path.commonpath([_absolute(root if os.path.isdir(root) else root.parent) for root in roots]))
    by_id = {_absolute(path).relative_to(parent).as_posix(): path for path in found}
    return [Item(id=key, path=by_id[key]) for key in sorted(by_id)]


def check_out(inputs: Sequence[str | Path], out: Path | None) -> None:
    """UserError where OUT is an input folder: the next run would take the pictures that this one writes for inputs."""
    for path in inputs:
        if out is not None and os.path.isdir(path) and os.path.realpath(path) == os.path.realpath(out):
            raise UserError(
                f"--out {out} is the folder of the images, to which the job's own pictures would be added; choose "
                "another one, such as a sub-folder."
            )


def labelled_items(folder: str | Path, out: Path | None = None) -> list[Item]:
    """The images of a folder with one class per sub-folder; the label is the sub-folder's name.

    Ids are relative to `folder`, sorted. `out`, where the job writes, is passed over.

    Raises:
        UserError: no folder, no sub-folders, a sub-folder without images, or images beside the sub-folders.
    """
    root = Path(folder)
    entries = sorted(path for path in _listed(root) if not path.name.startswith("."))
    loose = [path.name for path in entries if not os.path.isdir(path) and path.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        raise UserError(
            f"{root} has images outside class folders ({loose[0]}); move each into a sub-folder of its class."
        )
    own = None if out is None else out.resolve()
    classes = [path for path in entries if os.path.isdir(path) and path.resolve() != own]
    if not classes:
        raise UserError(f"{root} has no sub-folders; one sub-folder per class was expected.")
    items = [
        Item(id=path.relative_to(root).as_posix(), path=path, label=klass.name)
        for klass in classes
        for path in _images_below(klass, out)
    ]
    return sorted(items, key=lambda item: item.id)


def _images_below(root: Path, out: Path | None) -> list[Path]:
    if os.path.exists(root) and not os.path.isdir(root):
        return [root]
    images = [path for path in _walk(root, out) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the folder.")
    return images


def _walk(root: Path, out: Path | None) -> Iterator[Path]:
    """Visible files below `root` but `out`; symbolic links to folders are followed, each real folder once.

    An empty folder with the name of an image counts as one, so that the job says what is wrong with it.
    """
    seen = set() if out is None else {os.path.realpath(out)} - {os.path.realpath(root)}
    stack = [root]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for path in _visible(_listed(folder)):
            if not os.path.isdir(path) or (path.suffix.lower() in IMAGE_SUFFIXES and not _listed(path)):
                yield path
            else:
                stack.append(path)


def _visible(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if not path.name.startswith("."))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise UserError(f"{folder} does not exist; name an image file or a folder of images.") from error
    except NotADirectoryError as error:
        raise UserError(f"{folder} is not a folder; one sub-folder per class was expected.") from error
    except ValueError as error:
        raise UserError(f"{str(folder)!r} is no name of a file or folder ({error}); check the path.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); check its permissions.") from error


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
