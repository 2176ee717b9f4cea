"""What `perception classify` compares: images with classes, out of folders, class lists, prompt files or data sets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import a_name, comma_list
from perception.commands.datasets import add_dataset_arguments, dataset_items, load_dataset, refuse_without_dataset
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.classification.prompts import PromptSet
    from perception.jobs.items import Item


@dataclass(frozen=True)
class Comparison:
    """Images and the classes they are compared with."""

    items: list[Item]  # with the true class as label, where it is known
    prompts: PromptSet  # every label is one of its classes
    class_prompts: tuple[tuple[str, ...], ...] | None = None  # per class, for models that know classes, not text
    border: int = 0  # pixels to cut from each side of the file
    preset: str | None = None  # published settings of the data set
    headline: str | None = None  # the figure that papers report on the data set


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES, a data set, and the classes."""
    parser.add_argument("images", nargs="*", type=a_name, metavar="IMAGES", help="image files or folders")
    add_dataset_arguments(parser)
    group = parser.add_argument_group("classes (without any: one per sub-folder of IMAGES, with evaluation)")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--classes", type=comma_list, metavar="A,B,C", help="class names")
    choice.add_argument(
        "--prompts",
        metavar="FILE",
        help="CSV with the columns prompt,classname,classidx; or a text file with a class per line; or a published "
        "table: aircraft, cifar10, cifar100, flowers, food, imagenet, mnist, objectnet, pets, stl10",
    )
    group.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="sentence with {} for the class name, a text file with a sentence per line, or a published set: aircraft, "
        "caltech101, cifar, eurosat, imagenet, stl10; repeat for several (default: the sentence of the table or data "
        "set, else 'a photo of a {}.'; the bare name for class-conditional backbones)",
    )
    group.add_argument(
        "--evaluate", action="store_true", help="IMAGES is one folder with a sub-folder per class: report accuracy"
    )


def read_comparison(args: argparse.Namespace) -> Comparison:
    """Images and classes of parsed arguments. Raises UserError for arguments that do not go together."""
    templates = _templates(args.template)
    if args.dataset is not None:
        return _of_dataset(args, templates)
    refuse_without_dataset(args)
    if not args.images:
        raise UserError("there is nothing to classify; name image files or folders, or --dataset NAME --root DIR")
    return _of_files(args, templates)


def _templates(given: list[str] | None) -> list[str] | None:
    """Sentences as they are; files and published sets by their content."""
    from perception.data.templates import read_templates

    if given is None:
        return None
    return [template for text in given for template in ([text] if "{}" in text else read_templates(text))]


def _of_dataset(args: argparse.Namespace, templates: list[str] | None) -> Comparison:
    if args.images or args.classes or args.prompts:
        raise UserError("--dataset brings its images and classes; leave out IMAGES, --classes and --prompts")
    chosen = load_dataset(args, templates)
    return Comparison(
        items=dataset_items(chosen),
        prompts=chosen.prompts,
        class_prompts=None if templates else _bare(chosen.prompts, chosen.numbers),
        border=chosen.border,
        preset=chosen.preset,
        headline="mean per class" if chosen.mean_per_class else "top-1",
    )


def _of_files(args: argparse.Namespace, templates: list[str] | None) -> Comparison:
    evaluate = args.evaluate or not (args.classes or args.prompts)
    items = _items(args, evaluate)
    prompts = _prompts(args, items, templates)
    for label in sorted({item.label for item in items if item.label is not None}):
        prompts.find(label)
    whole = args.prompts is not None and Path(args.prompts).suffix.lower() == ".csv"
    numbers = [(index,) for index in prompts.indices] if args.prompts == "imagenet" else None
    return Comparison(items, prompts, None if templates or whole else _bare(prompts, numbers))


def _items(args: argparse.Namespace, evaluate: bool) -> list[Item]:
    from perception.jobs.items import check_out, image_items, labelled_items

    images: list[str] = args.images
    if getattr(args, "error_maps", False) or evaluate:
        check_out(images, args.out)
    if not evaluate:
        return image_items(images, args.out)
    if len(images) == 1 and Path(images[0]).is_dir():
        return labelled_items(images[0], args.out)
    if args.evaluate:
        raise UserError(
            f"The classes of the images are not known from {' '.join(images[:3])}; name one folder that has a "
            "sub-folder per class."
        )
    raise UserError(
        f"No classes were given for {images[0]}; add --classes A,B,C or --prompts FILE, or name one folder that "
        "has a sub-folder per class."
    )


def _prompts(args: argparse.Namespace, items: list[Item], templates: list[str] | None) -> PromptSet:
    from perception.classification.prompts import DEFAULT_TEMPLATE, class_prompts, read_prompts

    if args.prompts:
        return read_prompts(args.prompts, templates)
    names = args.classes or sorted({item.label.replace("_", " ") for item in items if item.label is not None})
    return class_prompts(names, templates or (DEFAULT_TEMPLATE,))


def _bare(prompts: PromptSet, numbers: Sequence[Sequence[int]] | None) -> tuple[tuple[str, ...], ...]:
    """Names of the classes, or their numbers: those of ImageNet are called otherwise by CLIP than by the models."""
    return tuple((name,) for name in prompts.names) if numbers is None else tuple(tuple(map(str, n)) for n in numbers)
