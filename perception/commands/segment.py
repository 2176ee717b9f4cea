"""`perception segment`: the class of every pixel, or the region that a sentence refers to."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from perception.commands.arguments import a_name, add_job_arguments, comma_list, job_options
from perception.commands.asked import request_of
from perception.commands.models import (
    add_model_arguments,
    check_classes,
    check_command,
    chosen_artifact,
    meter,
    place,
    revisions_of,
)
from perception.encoders.artifact import Artifact
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.segmentation.job import FindJob, SegmentJob

SUMMARY = "label every pixel of images, or find what a sentence refers to"
EXAMPLES = """perception segment photos/ --out runs/labels
perception segment photos/ --model runs/vpd_mini_world/model --classes road,car --maps --out runs/labels
perception segment street.png --text "the red car on the left" --text "the tallest building" --out runs/found
perception segment photos/ --dry-run    # what it would cost"""
_EXAMPLE_TEXT = '--text "the red car on the left"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES, what to find, which pictures to write, the model, and the shared options."""
    parser.add_argument("images", nargs="+", type=a_name, metavar="IMAGES", help="image files or folders")
    group = parser.add_argument_group("what to find")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="SENTENCE",
        help="what to find in every image, with a referring model; repeat for several",
    )
    choice.add_argument(
        "--classes", type=comma_list, default=(), metavar="A,B", help="measure and draw these alone (default: all)"
    )
    group.add_argument(
        "--maps", action="store_true", help="also the attention map of every class, or of every word of the sentences"
    )
    group.add_argument("--no-overlay", dest="overlay", action="store_false", help="no pictures over the images")
    add_model_arguments(parser, "the shipped mini heads")
    add_job_arguments(parser, batch_size=1)


def run(args: argparse.Namespace) -> int:
    """Segment; 1 when an image failed."""
    artifact = chosen_artifact(args, "referring" if args.text else "semantic")
    _check_task(artifact, args.text)
    _check_words(artifact, args.text, args.classes)
    from perception.jobs.images import run_files
    from perception.jobs.items import check_out, image_items
    from perception.segmentation.job import REFERRING_RECORD, SEMANTIC_RECORD, referring_line, semantic_line

    check_out(args.images, args.out)
    items = image_items(args.images, args.out)
    build = partial(_referring if args.text else _semantic, args, artifact)
    if args.dry_run:
        from perception.jobs.images import plan_files

        print(plan_files(build(), items, args.out).render())
        return 0
    line, shape = (referring_line, REFERRING_RECORD) if args.text else (semantic_line, SEMANTIC_RECORD)
    request = request_of(args, model=artifact.config)
    return run_files(items, build, job_options(args), line, shape, artifact.folder.name, request)


def _check_task(artifact: Artifact, texts: list[str]) -> None:
    check_command(artifact, "segment")
    if artifact.task == "semantic" and texts:
        raise UserError(
            f"{artifact.folder} is a semantic model with {len(artifact.config['classes'])} classes of its own, which "
            "takes no --text; leave --text out, or name a referring model."
        )
    if artifact.task == "referring" and not texts:
        raise UserError(f"{artifact.folder} is a referring model, which needs a sentence; add {_EXAMPLE_TEXT}.")


def _check_words(artifact: Artifact, texts: list[str], classes: tuple[str, ...]) -> None:
    if any(not text.strip() for text in texts):
        raise UserError(f"A --text is empty; write what to find, such as {_EXAMPLE_TEXT}.")
    check_classes(classes, artifact)


def _semantic(args: argparse.Namespace, artifact: Artifact) -> SegmentJob:
    from perception.conditioning import ClassNames
    from perception.encoders.attention_maps import check_maps
    from perception.segmentation.job import SegmentJob
    from perception.segmentation.predictor import SemanticPredictor

    device = place(args)
    network = artifact.load(args.backbone).to(device)
    vpd = getattr(network.segmentor.backbone, "vpd", None)
    if vpd is not None and vpd.conditioning.per_image:
        raise UserError(
            f"{artifact.folder} is told a caption for each image, which files do not have; test it with "
            "tools/test.py, or train one on class names."
        )
    if args.maps:
        check_maps(vpd, ClassNames)  # before the job begins
    predictor = SemanticPredictor(network, args.size, device, vpd)
    job = SegmentJob(predictor, network.palette, args.classes, _settings(args, artifact), meter(artifact, vpd))
    job.revisions = revisions_of(artifact, network)
    return job


def _referring(args: argparse.Namespace, artifact: Artifact) -> FindJob:
    from perception.conditioning import Sentences
    from perception.encoders.attention_maps import check_maps
    from perception.segmentation.job import FindJob
    from perception.segmentation.predictor import ReferringPredictor

    network = artifact.load(args.backbone)
    predictor = ReferringPredictor(network, args.size, place(args))
    if args.maps:
        check_maps(predictor.vpd, Sentences)  # before the job begins
    job = FindJob(predictor, args.text, _settings(args, artifact), meter(artifact, predictor.vpd))
    job.revisions = revisions_of(artifact, network)
    return job


def _settings(args: argparse.Namespace, artifact: Artifact) -> dict[str, Any]:
    """What changes a result, by the names of the options."""
    return {"model": artifact.digest(), "size": args.size, "maps": args.maps, "overlay": args.overlay}
