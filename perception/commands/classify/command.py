"""`perception classify`: zero-shot labels for images, by the denoising error of each label's prompt."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from perception.commands.arguments import (
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
from perception.commands.classify.inputs import Comparison, add_input_arguments, read_comparison
from perception.commands.classify.rules import (
    add_preselection_arguments,
    add_rule_arguments,
    check_preselection,
    chosen_rule,
)
from perception.errors import PromptTooLongError, UserError

if TYPE_CHECKING:
    from perception.classification.calibration import ErrorCalibration
    from perception.classification.job import ClassifyJob, ClassifyOptions
    from perception.classification.prompts import PromptSet
    from perception.jobs.items import Item

SUMMARY = "label images with your own classes, without training"
EXAMPLES = """perception classify photos/ --classes cat,dog,horse --out runs/labels
perception classify photos/ --prompts prompts.csv --confidence 0.999 --budget 2000 --loss l1 --out runs/labels
perception classify photos/ --prompts pets --preset pets --method fixed --out runs/pets    # as published
perception classify labelled/ --out runs/scores            # one sub-folder per class: prints the accuracy
perception classify --dataset fashion_mnist --root data/fashion_mnist --backbone mini-dit --out runs/fashion
perception classify photos/ --classes cat,dog --error-maps --out runs/maps    # and where they differ
perception classify photos/ --prompts imagenet --preselect 20 --preselect-clip models/clip-vit-large --out runs/clip
perception classify photos/ --classes cat,dog --dry-run    # what it would cost"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES, what to compare them with, and how."""
    add_input_arguments(parser)
    _add_method_arguments(parser)
    add_preselection_arguments(parser)
    _add_output_arguments(parser)
    add_backbone_arguments(parser)
    add_job_arguments(
        parser, batch_size=None, chosen="as many as --rows, but 1 on a CPU with another model than mini or mini-dit"
    )


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    add_rule_arguments(group)
    group.add_argument(
        "--pool",
        choices=("max", "mean_error", "mean_embed"),
        default="max",
        help="several prompts per class: the best one counts, mean of their errors, or of their embeddings "
        "(default: max)",
    )
    group.add_argument(
        "--loss",
        choices=("l2", "l1", "huber", "vlb", "l2+vlb"),
        help="error of the noise prediction (default: the published one of --preset or --dataset, else l2); vlb and "
        "l2+vlb: the variational bound, of networks that learned a variance, such as DiT",
    )
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument(
        "--crop",
        choices=("resize", "adm"),
        help="resize and cut the centre, or as guided-diffusion and DiT do (default: adm for a class-conditional DiT "
        "on latents, else resize)",
    )
    group.add_argument(
        "--interpolation",
        choices=("bicubic", "bilinear", "lanczos"),
        default="bicubic",
        help="of the resize (default: bicubic)",
    )
    group.add_argument(
        "--border", type=int, metavar="PX", help="cut from each side of the file first (default: 0; objectnet: 2)"
    )
    group.add_argument(
        "--noise", type=a_path, metavar="FILE", help=".npy, .pt or .safetensors [N, C, h, w] for all images, not --seed"
    )
    group.add_argument(
        "--class-tokens", type=a_path, metavar="FILE", help="what `perception adapt` has learned from a few images"
    )
    add_denoiser_arguments(group)
    group.add_argument(
        "--calibration",
        type=a_path,
        metavar="FOLDER",
        help="OUT of a run on a few labelled images with --save-errors: adds calibrated probabilities",
    )
    group.add_argument(
        "--learn-weights",
        action="store_true",
        help="with a --calibration run of --method exhaustive: weigh the timesteps as those images teach",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("further output")
    group.add_argument("--save-errors", action="store_true", help="write each image's errors to OUT/errors")
    group.add_argument(
        "--error-maps",
        action="store_true",
        help="write to OUT/error_maps where each image speaks for its class (red) or for the runner-up (blue)",
    )
    group.add_argument(
        "--error-map-samples",
        type=positive_int,
        default=32,
        metavar="N",
        help="timesteps of an error map, two evaluations each (default: 32)",
    )


def run(args: argparse.Namespace) -> int:
    """Classify; 1 when an image failed."""
    comparison = read_comparison(args)
    try:
        if args.dry_run:
            print(_plan(args, comparison.items, _options(args, comparison)))
            return 0
        return _run(args, comparison)
    except PromptTooLongError as error:
        raise UserError(f"{error.fact}; shorten the class name or its template") from error


def _options(args: argparse.Namespace, comparison: Comparison) -> ClassifyOptions:
    from perception.classification.job import ClassifyOptions
    from perception.classification.sets import preset

    chosen = preset(args.preset) if args.preset else None
    name, prompts = args.preset or comparison.preset, comparison.prompts
    return ClassifyOptions(
        prompts=prompts,
        class_prompts=comparison.class_prompts,
        rule=chosen_rule(args, chosen, _costs(args, prompts)),
        loss=args.loss or (preset(name).loss if name else "l2"),
        pool=args.pool,
        size=args.size,
        interpolation=args.interpolation,
        border=comparison.border if args.border is None else args.border,
        seed=args.seed,
        noise=args.noise,
        rows=args.rows,
        save_errors=args.save_errors,
        error_maps=args.error_map_samples if args.error_maps else 0,
        learned=_learned(args),
        calibration=args.calibration,
        preselect=args.preselect,
        crop=args.crop,
        tokens=args.class_tokens,
        clip=_clip(args),
    )


def _costs(args: argparse.Namespace, prompts: PromptSet) -> list[int]:
    """Denoiser rows of one sample of each candidate that may enter the race, as far as the prompts tell."""
    rows = [count for _, count in Counter(prompts.classes).most_common(args.preselect)]
    if args.pool == "mean_embed":
        return [1] * len(rows)
    return rows if args.pool == "mean_error" else [1] * sum(rows)


def _learned(args: argparse.Namespace) -> ErrorCalibration | None:
    if args.calibration is None:
        if args.learn_weights:
            raise UserError("--learn-weights needs --calibration FOLDER, a run on labelled images to learn from")
        return None
    from perception.classification.calibration import calibrate
    from perception.classification.recorded import read_recorded

    return calibrate(read_recorded(args.calibration)[1], args.learn_weights)


def _clip(args: argparse.Namespace) -> str | None:
    """The CLIP model of the preselection, checked before anything heavy is loaded."""
    check_preselection(args)
    name: str | None = args.preselect_clip
    if name is not None:
        from perception.classification.clip_preselection import check_clip

        check_clip(name)
    return name


def _together(args: argparse.Namespace) -> int:
    """Images that race together: as many as a call has rows, so that calls stay full while most images have an answer.

    One where a large model runs on a CPU: small calls hardly slow it down, and an image is kept as soon as it is done.
    """
    from perception.backbones.devices import pick_device
    from perception.backbones.shipped import SHIPPED

    device = args.device or pick_device().type
    return 1 if device == "cpu" and args.backbone not in SHIPPED else int(args.rows)


def _plan(args: argparse.Namespace, items: list[Item], options: ClassifyOptions) -> str:
    from perception.classification.plan import plan_classify
    from perception.jobs.plan import remaining

    return plan_classify(load_backbone_from(args), options, remaining(items, args.out)).render()


def _run(args: argparse.Namespace, comparison: Comparison) -> int:
    job = job_options(args, batch_size=args.batch_size or _together(args))
    from perception.classification.report import report
    from perception.jobs.images import unlike_lines
    from perception.jobs.runner import run_job

    build = partial(_classifier, args, comparison)
    summary = run_job(comparison.items, build, job, request_of(args))
    if os.environ.get("RANK", "0") == "0":
        told = report(job.out, comparison.items, comparison.prompts, comparison.headline)
        warned = unlike_lines(job.out, {item.id for item in comparison.items}, args.backbone, "--backbone")
        print("\n\n".join(part for part in (told, *warned, summary.render()) if part))
    return summary.exit_code


def _classifier(args: argparse.Namespace, comparison: Comparison) -> ClassifyJob:
    """The predictor; its options come first, so that bad ones are refused before a model is loaded."""
    from perception.classification.job import ClassifyJob

    options = _options(args, comparison)
    return ClassifyJob(load_backbone_from(args), options)
