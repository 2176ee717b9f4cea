"""`perception classify`: zero-shot labels for images, by the denoising error of each label's prompt."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.classify_rules import add_rule_arguments, chosen_rule
from perception.commands.common import (
    add_backbone_arguments,
    add_job_arguments,
    comma_list,
    job_options,
    load_backbone_from,
    positive_int,
)
from perception.commands.extract import size_pair
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.classification.learned import Learned
    from perception.classification.prompts import PromptSet
    from perception.commands.classify_job import ClassifyOptions
    from perception.engine.items import Item

SUMMARY = "label images with your own classes, without training"
EXAMPLES = """perception classify photos/ --classes cat,dog,horse --out runs/labels
perception classify photos/ --prompts prompts.csv --confidence 0.999 --budget 2000 --loss l1 --out runs/labels
perception classify photos/ --prompts pets --preset pets --method fixed --out runs/pets    # as published
perception classify labelled/ --out runs/scores            # one sub-folder per class: prints the accuracy
perception classify photos/ --classes cat,dog --dry-run    # what it would cost"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES, what to compare them with, and how."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files or folders")
    _add_class_arguments(parser)
    _add_method_arguments(parser)
    add_backbone_arguments(parser)
    add_job_arguments(parser, batch_size=1)


def _add_class_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="sentence with {} for the class name; repeat for several (default: 'a photo of a {}.')",
    )
    group.add_argument(
        "--pool",
        choices=("max", "mean_error", "mean_embed"),
        default="max",
        help="several prompts per class: the best one counts, mean of their errors, or of their embeddings "
        "(default: max)",
    )
    group.add_argument(
        "--evaluate", action="store_true", help="IMAGES is one folder with a sub-folder per class: report accuracy"
    )


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    add_rule_arguments(group)
    group.add_argument("--loss", choices=("l2", "l1", "huber"), help="error of the noise prediction (default: l2)")
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument(
        "--interpolation",
        choices=("bicubic", "bilinear", "lanczos"),
        default="bicubic",
        help="of the resize (default: bicubic)",
    )
    group.add_argument("--border", type=int, default=0, metavar="PX", help="cut from each side of the file first")
    group.add_argument(
        "--noise", type=Path, metavar="FILE", help=".npy, .pt or .safetensors [N, C, h, w] for all images, not --seed"
    )
    group.add_argument("--rows", type=positive_int, default=32, help="rows per denoiser call (default: 32)")
    group.add_argument("--no-share", dest="share", action="store_false", help="compute every row in full (same answer)")
    group.add_argument("--save-errors", action="store_true", help="write each image's errors to OUT/errors")
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="OUT of a run on a few labelled images with --save-errors: adds calibrated probabilities",
    )
    group.add_argument(
        "--learn-weights",
        action="store_true",
        help="with a --calibration run of --method exhaustive: weigh the timesteps as those images teach",
    )


def run(args: argparse.Namespace) -> int:
    """Classify; 1 when an image failed."""
    evaluate = args.evaluate or not (args.classes or args.prompts)
    items = _items(args.images, evaluate)
    prompts = _prompts(args, items)
    if evaluate:
        for label in sorted({item.label for item in items if item.label is not None}):
            prompts.find(label)
    options = _options(args, prompts)
    if args.dry_run:
        print(_plan(args, items, options))
        return 0
    return _run(args, items, options)


def _items(images: list[str], evaluate: bool) -> list[Item]:
    from perception.engine.items import image_items, labelled_items

    if not evaluate:
        return image_items(images)
    if len(images) > 1 or not Path(images[0]).is_dir():
        raise UserError(
            f"No classes were given for {images[0]}; add --classes A,B,C or --prompts FILE, or name one folder that "
            "has a sub-folder per class."
        )
    return labelled_items(images[0])


def _prompts(args: argparse.Namespace, items: list[Item]) -> PromptSet:
    from perception.classification.prompts import DEFAULT_TEMPLATE, class_prompts, read_prompts

    templates = args.template or (DEFAULT_TEMPLATE,)
    if args.prompts:
        return read_prompts(args.prompts, templates)
    if args.classes:
        return class_prompts(args.classes, templates)
    names = sorted({item.label for item in items if item.label is not None})
    return class_prompts([name.replace("_", " ") for name in names], templates)


def _options(args: argparse.Namespace, prompts: PromptSet) -> ClassifyOptions:
    from perception.classification.presets import preset
    from perception.commands.classify_job import ClassifyOptions

    chosen = preset(args.preset) if args.preset else None
    return ClassifyOptions(
        prompts=prompts,
        rule=chosen_rule(args, chosen, len(prompts.names) if args.pool == "mean_embed" else len(prompts)),
        loss=args.loss or (chosen.loss if chosen else "l2"),
        pool=args.pool,
        size=args.size,
        interpolation=args.interpolation,
        border=args.border,
        seed=args.seed,
        noise=args.noise,
        rows=args.rows,
        share=args.share,
        save_errors=args.save_errors,
        learned=_learned(args),
    )


def _learned(args: argparse.Namespace) -> Learned | None:
    if args.calibration is None:
        if args.learn_weights:
            raise UserError("--learn-weights needs --calibration FOLDER, a run on labelled images to learn from")
        return None
    from perception.classification.learned import learn
    from perception.commands.classify_recorded import read_recorded

    return learn(read_recorded(args.calibration)[1], args.learn_weights)


def _plan(args: argparse.Namespace, items: list[Item], options: ClassifyOptions) -> str:
    from perception.commands.classify_plan import plan_classify
    from perception.engine.plan import remaining

    return plan_classify(load_backbone_from(args), options, remaining(items, args.out)).render()


def _run(args: argparse.Namespace, items: list[Item], options: ClassifyOptions) -> int:
    job = job_options(args)
    from perception.commands.classify_job import ImageClassifier
    from perception.commands.classify_report import report
    from perception.engine.runner import run_job

    summary = run_job(items, lambda: ImageClassifier(load_backbone_from(args), options), job)
    if os.environ.get("RANK", "0") == "0":
        print("\n\n".join(part for part in (report(job.out, items), summary.render()) if part))
    return summary.exit_code
