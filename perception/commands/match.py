"""`perception match`: which caption belongs to which image, by denoising error."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import (
    a_name,
    a_path,
    add_backbone_arguments,
    add_denoiser_arguments,
    add_job_arguments,
    job_options,
    load_backbone_from,
    positive_int,
    size_pair,
)
from perception.commands.asked import request_of
from perception.errors import PromptTooLongError, UserError

if TYPE_CHECKING:
    from perception.classification.matching.job import MatchJob, MatchOptions
    from perception.data.matching_sets import CaptionList, MatchingExample
    from perception.jobs.items import Item

SUMMARY = "match captions with images, without training"
EXAMPLES = """perception match photos/ --captions captions.txt --out runs/match    # the best caption of each image
perception match photos/ --captions captions.csv --out runs/match    # columns image,caption: recall both ways
perception match --examples winoground/examples.jsonl --out runs/winoground
perception match --examples examples.jsonl --samples 1000 --no-normalise --out runs/reference"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES and --captions, or --examples, and how."""
    parser.add_argument("images", nargs="*", type=a_name, metavar="IMAGES", help="files or folders, with --captions")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--captions",
        type=a_path,
        metavar="FILE",
        help="compared with every image: a text file with a caption per line; or .csv with the columns image,caption, "
        "or .jsonl with {image, captions}, which also say what belongs together",
    )
    choice.add_argument(
        "--examples",
        type=a_path,
        metavar="FILE",
        help=".jsonl or .csv with a few images and captions per line (lists, or image_0, image_1, caption_0, ...): "
        "caption j belongs to image j",
    )
    parser.add_argument("--image-folder", type=a_path, metavar="DIR", help="of --examples (default: beside the file)")
    _add_method_arguments(parser)
    add_backbone_arguments(parser)
    add_job_arguments(parser, batch_size=1)


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--samples", type=positive_int, default=100, metavar="N", help="timesteps per caption (default: 100)"
    )
    group.add_argument("--trials", type=positive_int, default=1, help="noises per timestep (default: 1)")
    group.add_argument("--loss", choices=("l2", "l1", "huber"), default="l2", help="of the noise (default: l2)")
    group.add_argument(
        "--no-normalise",
        dest="normalise",
        action="store_false",
        help="do not also subtract the error of the empty caption, which makes images comparable",
    )
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument(
        "--interpolation",
        choices=("bicubic", "bilinear", "lanczos"),
        default="bicubic",
        help="of the resize (default: bicubic)",
    )
    group.add_argument("--noise", type=a_path, metavar="FILE", help=".npy, .pt, .safetensors [N, C, h, w], not --seed")
    group.add_argument("--truncate", action="store_true", help="cut captions that the text encoder cannot take whole")
    add_denoiser_arguments(group)


def run(args: argparse.Namespace) -> int:
    """Match; 1 when an image failed."""
    if args.captions and not args.images:
        raise UserError("--captions needs images to compare with; name image files or folders.")
    if args.examples and args.images:
        raise UserError("--examples names its images itself; give their folder as --image-folder.")
    items, captions, source = _examples(args) if args.examples else _captions(args)
    try:
        if args.dry_run:
            print(_plan(args, items, captions))
            return 0
        return _run(args, items, captions, source)
    except PromptTooLongError as error:
        raise UserError(f"{error.fact}; shorten it, or cut all long captions with --truncate") from error


def _examples(
    args: argparse.Namespace,
) -> tuple[list[Item], dict[str, tuple[str, ...]], list[MatchingExample] | CaptionList]:
    from perception.classification.matching.report import example_ids
    from perception.data.matching_sets import read_examples
    from perception.jobs.items import Item

    examples = read_examples(args.examples, args.image_folder)
    items, captions = [], {}
    for example in examples:
        for name, path in zip(example_ids(example), example.images, strict=True):
            items.append(Item(name, path))
            captions[name] = example.captions
    return items, captions, examples


def _captions(
    args: argparse.Namespace,
) -> tuple[list[Item], dict[str, tuple[str, ...]], list[MatchingExample] | CaptionList]:
    from perception.data.matching_sets import read_captions
    from perception.jobs.items import image_items

    captions = read_captions(args.captions)
    items = image_items(args.images, args.out)
    return items, {item.id: captions.captions for item in items}, captions


def _options(args: argparse.Namespace) -> MatchOptions:
    from perception.classification.matching.job import MatchOptions

    return MatchOptions(
        samples=args.samples,
        trials=args.trials,
        loss=args.loss,
        normalise=args.normalise,
        size=args.size,
        interpolation=args.interpolation,
        seed=args.seed,
        noise=args.noise,
        rows=args.rows,
        truncate=args.truncate,
    )


def _plan(args: argparse.Namespace, items: list[Item], captions: dict[str, tuple[str, ...]]) -> str:
    from perception.classification.matching.job import plan_match
    from perception.jobs.plan import unfinished

    job = _job(args, captions)
    return plan_match(job, unfinished(items, args.out)).render()


def _run(
    args: argparse.Namespace,
    items: list[Item],
    captions: dict[str, tuple[str, ...]],
    source: list[MatchingExample] | CaptionList,
) -> int:
    job = job_options(args)
    from perception.jobs.images import unlike_lines
    from perception.jobs.runner import run_job

    build = partial(_job, args, captions)
    summary = run_job(items, build, job, request_of(args))
    if os.environ.get("RANK", "0") == "0":
        warned = unlike_lines(job.out, {item.id for item in items}, args.backbone, "--backbone")
        print("\n".join([*_report(job.out, items, source), *warned, summary.render()]))
    return summary.exit_code


def _job(args: argparse.Namespace, captions: dict[str, tuple[str, ...]]) -> MatchJob:
    from perception.classification.matching.job import MatchJob

    return MatchJob(load_backbone_from(args), _options(args), captions)


def _report(out: Path, items: list[Item], source: list[MatchingExample] | CaptionList) -> list[str]:
    from perception.classification.matching.job import MATCH_RECORD
    from perception.classification.matching.report import Matched, report_examples, report_retrieval
    from perception.jobs.images import finished

    records = {record["id"]: Matched.of(record) for record in finished(out, {item.id for item in items}, MATCH_RECORD)}
    if isinstance(source, list):
        return report_examples(source, records)
    return report_retrieval(source, records)
