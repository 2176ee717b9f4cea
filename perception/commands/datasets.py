"""`--dataset NAME --root DIR`: a published classification set as the items of a job."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import a_path, positive_int
from perception.errors import UserError
from perception.jobs.items import Item

if TYPE_CHECKING:
    from perception.classification.sets import ClassificationSet

_OF_DATASETS = ("root", "download", "per_class", "subset")


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset, --root, --download, --per-class, --subset."""
    group = parser.add_argument_group("data set (in place of IMAGES and classes; with evaluation)")
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="aircraft, caltech101, cifar10, cifar100, eurosat, fashion_mnist, flowers, folder, food, imagenet, "
        "imagenet-a, imagenet-v2, mnist, objectnet, pets, stl10",
    )
    group.add_argument("--root", type=a_path, metavar="DIR", help="folder that holds the data set")
    group.add_argument("--download", action="store_true", help="fetch it into DIR first")
    group.add_argument("--per-class", type=positive_int, metavar="N", help="only the first N images of each class")
    group.add_argument("--subset", type=a_path, metavar="FILE", help=".npy or text file of image numbers of the set")


def refuse_without_dataset(args: argparse.Namespace) -> None:
    """Raises UserError for options of a data set where none is named."""
    foreign = next((name for name in _OF_DATASETS if getattr(args, name)), None)
    if foreign is not None:
        raise UserError(f"--{foreign.replace('_', '-')} belongs to --dataset NAME; add it, or leave this out")


def load_dataset(args: argparse.Namespace, templates: Sequence[str] | None = None) -> ClassificationSet:
    """The data set of parsed arguments; `templates` replace its published sentences.

    Raises UserError without --root, and as `classification_set`.
    """
    from perception.classification.sets import classification_set

    if args.root is None:
        raise UserError(f"--dataset {args.dataset} needs --root DIR, the folder that holds it.")
    chosen = classification_set(args.dataset, args.root, templates=templates, download=args.download)
    if args.subset is not None:
        chosen = chosen.subset(read_numbers(args.subset))
    return chosen.per_class(args.per_class) if args.per_class else chosen


def dataset_items(chosen: ClassificationSet) -> list[Item]:
    """One item per image; its label is the class name, which `chosen.prompts.find` knows."""
    names = chosen.prompts.names
    return [Item(image.id, image.path, names[image.class_id]) for image in chosen.images]


def read_numbers(path: Path) -> list[int]:
    """Whole numbers of a .npy file, or of a text file with one per line. Raises UserError for anything else."""
    import numpy as np

    from perception.data.inputs import UNREADABLE, read_input

    content = io.BytesIO(read_input(path, "the subset "))
    try:
        values = np.load(content, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(content, ndmin=1)
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise ValueError(f"its values are {values.dtype}, not all of them whole numbers")
        numbers = values.reshape(-1).astype(np.int64)
    except UNREADABLE as error:
        raise UserError(f"{path} is no list of image numbers ({error}); give .npy or one number per line") from error
    if not (numbers == values.reshape(-1)).all():
        raise UserError(f"{path} holds numbers that are not whole; give the positions of images in the set")
    return numbers.tolist()
