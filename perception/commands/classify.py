"""`perception classify`: zero-shot labels for images, by the denoising error of each label's prompt."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.common import (
    add_backbone_arguments,
    add_job_arguments,
    comma_ints,
    comma_list,
    job_options,
    load_backbone_from,
    positive_int,
)
from perception.commands.extract import size_pair
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.classification.prompts import PromptSet
    from perception.classification.schedule import StoppingRule
    from perception.commands.classify_job import ClassifyOptions
    from perception.engine.items import Item

SUMMARY = "label images with your own classes, without training"
EXAMPLES = """perception classify photos/ --classes cat,dog,horse --out runs/labels
perception classify photos/ --prompts prompts.csv --samples 25,250 --keep 5,1 --loss l1 --out runs/labels
perception classify labelled/ --out runs/scores            # one sub-folder per class: prints the accuracy
perception classify photos/ --classes cat,dog --dry-run    # what it would cost"""
SAMPLES, KEEP = (20, 100), (3, 1)  # for ten classes 440 evaluations per image


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
        "table: aircraft, cifar10, cifar100, flowers, food, mnist, pets, stl10",
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
    group.add_argument(
        "--method",
        choices=("fixed", "exhaustive"),
        default="fixed",
        help="fixed: drop the worst candidates stage by stage; exhaustive: all candidates on all samples "
        "(default: fixed)",
    )
    group.add_argument("--preset", metavar="NAME", help="published --samples, --keep and --loss of a data set")
    group.add_argument(
        "--samples",
        type=comma_ints,
        metavar="N,N",
        help=f"noise samples per candidate up to the end of each stage (default: {','.join(map(str, SAMPLES))})",
    )
    group.add_argument(
        "--keep",
        type=comma_ints,
        metavar="K,1",
        help=f"candidates kept after each stage (default: {','.join(map(str, KEEP))})",
    )
    group.add_argument("--trials", type=positive_int, default=1, help="noises per timestep (default: 1)")
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
    samples = args.samples or (chosen.samples if chosen else SAMPLES)
    keep = args.keep or (chosen.keep if chosen else KEEP)
    return ClassifyOptions(
        prompts=prompts,
        rule=_rule(args.method, samples, keep, args.trials),
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
    )


def _rule(method: str, samples: tuple[int, ...], keep: tuple[int, ...], trials: int) -> StoppingRule:
    """The stopping rule; `exhaustive` draws as many samples as the last stage of `fixed`."""
    from perception.classification.schedule import Exhaustive, FixedSchedule

    if method == "exhaustive":
        return Exhaustive(max(samples, default=0), trials)
    return FixedSchedule(samples, keep, trials)


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
