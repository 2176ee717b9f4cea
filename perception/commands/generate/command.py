"""`perception generate`: a labelled data set of street scenes from label maps."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from perception.commands.arguments import (
    a_path,
    add_backbone_arguments,
    add_job_arguments,
    comma_list,
    job_options,
    positive_int,
)
from perception.commands.asked import request_of
from perception.commands.generate.options import add_option_arguments, comma_floats
from perception.errors import UserError

CHOSEN = (
    "as many as fit, at most 4: what they keep takes an eighth of the memory at most; 1 on a CPU with another model "
    "than mini"
)
SUMMARY = "make a labelled data set of street scenes from label maps"
EXAMPLES = """perception generate --labels gta/labels --backbone stable-diffusion-v1-5/stable-diffusion-v1-5 \\
    --control DGInStyle/ControlNet_UNet-S --per-label 4 --domains night,fog --preset fast --out runs/gen
perception generate --labels gta/labels --control controlnet --rare-classes --count 6000 --out runs/gen
perception generate --labels gta/labels --control controlnet --dry-run    # what it would cost
perception generate --verify runs/gen    # are all files there, whole and of one piece?
torchrun --nproc-per-node 8 -m perception.commands.main generate ... --engine torchrun"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to make samples of, what they are told, the sampler, the models, and the shared options."""
    group = parser.add_argument_group("samples")
    group.add_argument("--labels", type=a_path, metavar="FOLDER", help="label maps: 8-bit class ids, 255 = ignore")
    group.add_argument(
        "--per-label",
        type=_count_or_file,
        default=1,
        metavar="N|FILE",
        help="samples of each label map, or per_label.json of `perception score` (default: 1)",
    )
    group.add_argument("--classes", help="class names by id, 'A,B,...' or a file with one a line (default: Cityscapes)")
    group.add_argument(
        "--ids",
        type=comma_list,
        default=(),
        metavar="ID=CLASS,...",
        help="what the ids in the label maps mean, where they are not the classes' own: 0=sky,1=building,4=ignore; "
        "data sets are written in the classes' ids",
    )
    group.add_argument(
        "--resize",
        type=comma_floats,
        default=(1.0,),
        metavar="R,R",
        help="of whole label maps before they are cropped; one factor is drawn per sample (default: 1)",
    )
    group.add_argument(
        "--photos",
        type=a_path,
        metavar="FOLDER",
        help="what the label maps were drawn on, files named as they are: the images are these photos in the generated "
        "light and colours, down to the smallest things (guided filter)",
    )
    group.add_argument(
        "--detail-radius", type=positive_int, metavar="PIXELS", help="of the windows that --photos fits (default: 6)"
    )
    crop = group.add_mutually_exclusive_group()
    crop.add_argument("--around", metavar="CLASS", help="crop around pixels of this class (default: the middle)")
    crop.add_argument(
        "--rare-classes", action="store_true", help="draw --count label maps, rare classes first, and crop around them"
    )
    group.add_argument("--count", type=positive_int, metavar="N", help="label maps drawn by --rare-classes")
    group.add_argument("--temperature", type=float, help="of --rare-classes (default: 0.01)")
    group.add_argument(
        "--min-pixels", type=int, metavar="N", help="a map is drawn for classes with more (default: 3000)"
    )
    group.add_argument(
        "--statistics",
        type=a_path,
        metavar="FILE",
        help="of --rare-classes: a sample_class_stats.json of the label maps; where there is none yet, it is counted, "
        "and written for the next time",
    )
    _add_prompt_arguments(parser)
    _add_control_arguments(parser)
    add_option_arguments(parser)
    add_backbone_arguments(parser)
    add_job_arguments(parser, batch_size=None, chosen=CHOSEN)
    parser.add_argument("--verify", type=a_path, metavar="FOLDER", help="check a finished data set instead")


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--domains",
        type=comma_list,
        default=(),
        metavar="A,B",
        help="dealt out evenly over all samples, 'none' for class names alone (default: the paper's weather, drawn "
        "half of the time)",
    )
    group.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="how a domain is put into words, {names} stands for the classes and may be left out; repeat for several",
    )
    group.add_argument("--domain-probability", type=float, metavar="P", help="without --domains (default: 0.5)")


def _add_control_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("control networks")
    group.add_argument(
        "--control",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a ControlNet: folder or hub id; the first one takes label maps; repeat for several",
    )
    group.add_argument(
        "--control-images",
        action="append",
        default=[],
        type=a_path,
        metavar="FOLDER",
        help="pictures for the second control network and further ones, named as the label maps",
    )
    group.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="PART=NAME",
        help="of backbone, autoencoder, control, labels or photos, where their folders do not say it",
    )


def run(args: argparse.Namespace) -> int:
    """Generate, plan or verify; 1 when a sample failed or a file is damaged."""
    if args.verify is not None:
        from perception.generation.verify import verify

        report = verify(args.verify)
        print(report.render())
        return 1 if report.problems else 0
    _check(args)
    from perception.commands.generate.batch import scenes_together
    from perception.commands.generate.setup import read_setup

    setup = read_setup(args)
    together = scenes_together(args, setup.options)
    if args.dry_run:
        from perception.generation.job_plan import plan_scenes

        print(plan_scenes(setup.build(), setup.items, args.out, together).render())
        return 0
    from perception.generation.publishing.publish import finish
    from perception.jobs.runner import run_job

    options = job_options(args, batch_size=together)
    summary = run_job(setup.items, partial(setup.build), options, request_of(args))
    if os.environ.get("RANK", "0") == "0":
        print("\n".join([*finish(options.out, setup.vocabulary), summary.render()]))
    return summary.exit_code


def _count_or_file(text: str) -> int | Path:
    """An argparse type: '4' as a count of at least 1, anything else as a file."""
    return positive_int(text) if text.lstrip("-").isdigit() else Path(text)


def _check(args: argparse.Namespace) -> None:
    """UserError for options that contradict each other, all of them together."""
    problems = []
    if args.labels is None:
        problems.append("add --labels FOLDER with the label maps")
    if not args.control:
        problems.append("add --control FOLDER with a ControlNet for label maps")
    if not args.dry_run and args.out is None:
        problems.append("add --out FOLDER for the data set")
    if args.rare_classes != (args.count is not None):
        problems.append("give --rare-classes and --count N together")
    problems += _unused(args)
    if len(args.control_images) != max(len(args.control) - 1, 0):
        problems.append("give one --control-images FOLDER for every --control behind the first")
    if problems:
        raise UserError(f"The job is not complete: {'; '.join(problems)}.")


def _unused(args: argparse.Namespace) -> list[str]:
    """Options that would change nothing without, or with, another one."""
    licensed = {text.partition("=")[0].strip() for text in args.licence}
    needed = [
        ("--statistics", args.statistics is not None, args.rare_classes, "--rare-classes"),
        ("--temperature", args.temperature is not None, args.rare_classes, "--rare-classes"),
        ("--min-pixels", args.min_pixels is not None, args.rare_classes, "--rare-classes"),
        ("--detail-radius", args.detail_radius is not None, args.photos, "--photos FOLDER"),
        ("--licence photos=", "photos" in licensed, args.photos, "--photos FOLDER"),
        ("--licence autoencoder=", "autoencoder" in licensed, args.vae, "--vae FOLDER"),
    ]
    problems = [f"give {option} with {other}" for option, given, there, other in needed if given and not there]
    if args.domains and args.domain_probability is not None:
        problems.append("leave out --domain-probability, as --domains are dealt out evenly")
    templates = [text.partition("=")[0].strip() for text in args.template]
    if args.domains and (idle := [name for name in templates if name not in args.domains]):
        problems.append(f"name {idle[0]!r} in --domains, or leave out its --template")
    return problems
