"""Where the published classification sets keep their test images, and which class each belongs to.

A reader takes the folder that holds the set, or the set's own folder, in the layout in which the set is distributed
(and torchvision unpacks it). Class ids follow the order of the set's own class list, as in torchvision.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.inputs import read_input
from perception.errors import UserError

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelledImage:
    """One image of a set."""

    id: str  # POSIX path inside the set
    path: Path
    class_id: int  # 0-based


def pets(root: Path) -> list[LabelledImage]:
    """Oxford-IIIT Pet, the 3669 test images: annotations/test.txt has lines "NAME CLASS(1-based) SPECIES BREED"."""
    base = _base(root, "oxford-iiit-pet", "annotations/test.txt")
    with _read_whole(base):
        rows = [line.split() for line in _lines(base / "annotations" / "test.txt")]
        return _listed(base / "images", ((f"{row[0]}.jpg", int(row[1]) - 1) for row in rows))


def flowers(root: Path) -> list[LabelledImage]:
    """Flowers-102, the 6149 test images: setid.mat lists them (`tstid`), imagelabels.mat has the 1-based classes."""
    base = _base(root, "flowers-102", "setid.mat")
    with _read_whole(base):
        numbers = _matlab(base / "setid.mat", "tstid")
        labels = _matlab(base / "imagelabels.mat", "labels")
        return _listed(base / "jpg", ((f"image_{number:05d}.jpg", labels[number - 1] - 1) for number in numbers))


def food(root: Path) -> list[LabelledImage]:
    """Food-101, the 25250 test images: meta/test.json maps each class to its images; class ids by sorted name."""
    base = _base(root, "food-101", "meta/test.json")
    with _read_whole(base):
        listed = _json(base / "meta" / "test.json")
        order = {name: c for c, name in enumerate(sorted(listed))}
        rows = ((f"{image}.jpg", order[name]) for name, images in listed.items() for image in images)
        return _listed(base / "images", rows)


def aircraft(root: Path) -> list[LabelledImage]:
    """FGVC-Aircraft, the 3333 test images by variant: data/images_variant_test.txt has lines "NAME VARIANT"."""
    base = _base(root, "fgvc-aircraft-2013b", "data/variants.txt") / "data"
    with _read_whole(base):
        order = {variant: c for c, variant in enumerate(_lines(base / "variants.txt"))}
        rows = (line.split(maxsplit=1) for line in _lines(base / "images_variant_test.txt"))
        return _listed(base / "images", ((f"{name}.jpg", order[variant]) for name, variant in rows))


def objectnet_numbers(base: Path) -> dict[str, tuple[int, ...]]:
    """ObjectNet's mappings/: its folders that overlap ImageNet, with the class numbers of ImageNet (0 to 999).

    Several classes of ImageNet may be one of ObjectNet (analog clock and digital clock: alarm clock). Raises UserError
    for a file that is missing or of another form.
    """
    with _read_whole(base):
        labels = _json(base / "folder_to_objectnet_label.json")
        names = _json(base / "objectnet_to_imagenet_1k.json")
        lines = {int(line): int(number) for number, line in _json(base / "pytorch_to_imagenet_2012_id.json").items()}
        numbers = {name: lines[line] for line, name in enumerate(_lines(base / "imagenet_to_label_2012_v2"))}
        return {
            folder: tuple(numbers[name.strip()] for name in names[label].split(";"))
            for folder, label in labels.items()
            if label in names
        }


def folder_images(base: Path, classes: Mapping[str, int], others: str = "refuse") -> list[LabelledImage]:
    """Images below class folders, sorted by folder and path.

    Args:
        base: the folder of folders.
        classes: folder name -> class id; a class without a folder has no images.
        others: what to do with further folders: "refuse" or "skip".

    Raises:
        UserError: an unknown folder (with "refuse"), or no image at all.
    """
    found = class_folders(base)
    unknown = [name for name in found if name not in classes]
    if unknown and others == "refuse":
        raise UserError(f"the folder {unknown[0]!r} of {base} is none of the set's classes; move it elsewhere")
    images = [
        LabelledImage(path.relative_to(base).as_posix(), path, classes[name])
        for name in found
        if name in classes
        for path in sorted((base / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not images:
        raise UserError(f"{base} has no images in class folders ({', '.join(_SUFFIXES)}); check the folder")
    return images


def class_folders(base: Path) -> list[str]:
    """Names of the visible sub-folders, sorted. Raises UserError when there are none."""
    names = sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")) if base.is_dir() else []
    if not names:
        raise UserError(f"{base} has no class folders; one sub-folder per class was expected")
    return names


def first_folder(root: Path, *names: str) -> Path:
    """The first of `root / name` that exists, else `root` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


@contextmanager
def _read_whole(base: Path) -> Iterator[None]:
    """UserError for lists of a set that are cut short or of another form."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise UserError(f"the files of {base} do not fit each other ({error!r}); unpack the set anew") from error


def _base(root: Path, name: str, evidence: str) -> Path:
    """`root / name` or `root`, whichever holds the file `evidence`."""
    for base in (root / name, root):
        if (base / evidence).is_file():
            return base
    raise UserError(
        f"{root / name / evidence} does not exist; give the folder that holds {name}, or download the set into it"
    )


def _listed(folder: Path, rows: Iterable[tuple[str, int]]) -> list[LabelledImage]:
    images = [LabelledImage(name, folder / name, class_id) for name, class_id in rows]
    missing = next((image.path for image in images if not image.path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing} is in the list of test images but not on disk; unpack the set anew")
    return images


def _matlab(path: Path, name: str) -> list[int]:
    """A vector in a file of Matlab. Raises ValueError for a broken file."""
    from scipy.io import loadmat  # slow to import
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(path, squeeze_me=True)[name].tolist()
    except (MatReadError, zlib.error) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _json(path: Path) -> Any:
    return json.loads("\n".join(_lines(path)))


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise UserError(f"{path} does not exist; unpack the set anew")
    return [line.strip() for line in read_input(path).decode("utf-8").splitlines() if line.strip()]
