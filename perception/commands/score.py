"""`perception score`: does a labelled data set show what its label maps say? A trained head judges every sample."""

from __future__ import annotations

import argparse
import os
from functools import partial

from perception.commands.arguments import a_path, add_job_arguments, comma_ints, comma_list, job_options, positive_int
from perception.commands.asked import request_of
from perception.commands.models import add_model_arguments
from perception.errors import UserError

SUMMARY = "score and filter a generated data set by how well its images show their label maps"
EXAMPLES = """perception score runs/gen --model runs/fpn/model --reference gta/images gta/labels --out runs/gen_scored
perception score runs/gen --reference-world 200 --min-score 0.3 --out runs/gen_scored    # the shipped mini head
perception score runs/gen2 --model runs/fpn/model --class-loss runs/gen_scored/class_loss.json --out runs/gen2_scored
perception score gta --model runs/fpn/model --no-filter --out runs/hard    # runs/hard/per_label.json: for
perception generate --labels gta/labels --per-label runs/hard/per_label.json ...    # more of hard label maps"""
METRICS = ("mean_iou", "pixel_accuracy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FOLDER, what the losses of real images are, what is filtered, what is counted, the model, the shared options."""
    parser.add_argument(
        "folder", type=a_path, metavar="FOLDER", help="of `perception generate`, or any with images/ and labels/"
    )
    group = parser.add_argument_group("losses of real images")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--reference", nargs=2, type=a_path, metavar=("IMAGES", "LABELS"), help="folders of real, labelled images"
    )
    choice.add_argument("--reference-world", type=positive_int, metavar="N", help="N scenes of the miniature world")
    choice.add_argument("--class-loss", type=a_path, metavar="FILE", help="a class_loss.json that was measured before")
    choice.add_argument("--no-filter", action="store_true", help="scores alone, no filtered label maps")
    group = parser.add_argument_group("filter")
    group.add_argument(
        "--alpha",
        type=float,
        help="a pixel above ALPHA x its class's mean loss is ignored (default: 1.25)",
    )
    group.add_argument("--metric", choices=METRICS, default="mean_iou", help="the score (default: mean_iou)")
    group.add_argument(
        "--min-score", type=float, default=0.5, metavar="S", help="samples below are rejected, 0 to 1 (default: 0.5)"
    )
    _add_count_arguments(parser)
    add_model_arguments(parser, "the shipped mini head")
    add_job_arguments(parser, batch_size=1)


def _add_count_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("object recall and sample counts")
    group.add_argument(
        "--objects", type=comma_list, default=(), metavar="A,B", help="classes (default: things and rare ones)"
    )
    group.add_argument(
        "--areas",
        type=comma_ints,
        default=(64, 256, 1024, 4096),
        metavar="A,B",
        help="bounds of the size buckets, pixels (default: 64,256,1024,4096)",
    )
    group.add_argument(
        "--max-count", type=positive_int, default=20, metavar="N", help="samples of the hardest map (default: 20)"
    )
    group.add_argument(
        "--count-by",
        choices=("rank", "loss"),
        default="rank",
        help="counts follow the rank or the loss (default: rank)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the reference, then score; 1 when a file of either failed."""
    _check(args)
    from perception.commands.score_inputs import read_setup

    setup, artifact = read_setup(args)
    if args.dry_run:
        from perception.jobs.images import plan_files

        print(plan_files(setup.scoring(None), setup.items, args.out).render())
        if setup.reference:
            print(f"{'before it':>20}  {len(setup.reference)} reference images of the same cost each")
        return 0
    from perception.curation.measure import measure_reference
    from perception.curation.report import finish
    from perception.jobs.runner import open_group, run_job

    options, reference, failed, first = job_options(args), setup.known, 0, os.environ.get("RANK", "0") == "0"
    group = open_group(options.engine)  # one for both jobs
    try:
        if setup.reference:
            request = request_of(args, model=artifact.config, further=("reference",))
            reference, measured = measure_reference(setup, options, request)
            failed = measured.exit_code
            if first:
                print(f"reference: {measured.render()}")
        known = None if reference is None else reference.digest(setup.head.classes)
        request = request_of(args, model=artifact.config, further=("score", known))
        summary = run_job(setup.items, partial(setup.scoring, reference), options, request)
    finally:
        group.close()
    if first:
        print("\n".join([*finish(setup, reference, options.out), summary.render()]))
    return summary.exit_code or failed


def _check(args: argparse.Namespace) -> None:
    """UserError for an incomplete or impossible command, all faults together."""
    problems = []
    if args.reference is None and args.reference_world is None and args.class_loss is None and not args.no_filter:
        problems.append(
            "add --reference IMAGES LABELS, --reference-world N or --class-loss FILE for the losses of real images, "
            "or --no-filter"
        )
    if not args.dry_run and args.out is None:
        problems.append("add --out FOLDER for the scores")
    if args.out is not None and args.out.resolve() == args.folder.resolve():
        problems.append("choose an --out beside FOLDER, whose own files stay as they are")
    if args.alpha is not None and args.no_filter:
        problems.append("leave out --alpha or --no-filter")
    if args.alpha is not None and not args.alpha > 0:
        problems.append(f"--alpha is {args.alpha:g}; it must be above 0")
    if not 0 <= args.min_score <= 1:
        problems.append(f"--min-score is {args.min_score:g}; it must be 0 to 1")
    if problems:
        raise UserError(f"The job is not complete: {'; '.join(problems)}.")
