"""`perception depth`: metres for every pixel of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from perception.commands.arguments import a_name, add_job_arguments, job_options, positive_int
from perception.commands.asked import request_of
from perception.commands.models import (
    add_model_arguments,
    check_command,
    chosen_artifact,
    meter,
    place,
    revisions_of,
)
from perception.encoders.artifact import Artifact
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.depth.job import DepthJob

SUMMARY = "estimate the depth of every pixel of images, in metres"
EXAMPLES = """perception depth photos/ --out runs/depth
perception depth rooms/ --model runs/depth_sd15_nyu/model --room auto --size 480x640 --windows 2 --flip --out runs/depth
perception depth photos/ --npy --no-colours --out runs/depth
perception depth photos/ --dry-run    # what it would cost"""
AUTO = "auto"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IMAGES, what the model is told, how it is averaged, what is written, the model, and the shared options."""
    parser.add_argument("images", nargs="+", type=a_name, metavar="IMAGES", help="image files or folders")
    group = parser.add_argument_group("method")
    told = group.add_mutually_exclusive_group()
    told.add_argument(
        "--room",
        metavar="NAME",
        help="room type of all images, for a model that is told rooms; 'auto': the first one in each image's folder "
        "and file name (default: unknown)",
    )
    told.add_argument("--text", metavar="CAPTION", help="what all images show, for a model that is told captions")
    group.add_argument(
        "--windows", type=positive_int, default=0, metavar="N", help="mean over N squares of the shorter side"
    )
    group.add_argument("--flip", action="store_true", help="mean with the mirror image")
    output = parser.add_argument_group("output (16-bit PNG in millimetres, up to 65.535 m)")
    output.add_argument("--npy", action="store_true", help="also float32 metres as .npy")
    output.add_argument("--no-colours", dest="colours", action="store_false", help="no colour pictures")
    add_model_arguments(parser, "the shipped mini head", any_size=True)
    add_job_arguments(parser, batch_size=1)


def run(args: argparse.Namespace) -> int:
    """Estimate; 1 when an image failed."""
    artifact = chosen_artifact(args, "depth")
    check_command(artifact, "depth")
    _check_told(artifact, args.room, args.text)
    from perception.depth.job import DEPTH_RECORD, depth_line
    from perception.jobs.images import plan_files, run_files
    from perception.jobs.items import check_out, image_items

    check_out(args.images, args.out)
    items = image_items(args.images, args.out)
    build = partial(_job, args, artifact)
    if args.dry_run:
        print(plan_files(build(), items, args.out).render())
        return 0
    request = request_of(args, model=artifact.config)
    return run_files(items, build, job_options(args), depth_line, DEPTH_RECORD, artifact.folder.name, request)


def _check_told(artifact: Artifact, room: str | None, text: str | None) -> None:
    kind = None if artifact.config.get("encoder") else artifact.config.get("conditioning", "class_id")
    if room is not None and kind != "class_id":
        raise UserError(f"{artifact.folder} is not told rooms; leave --room out.")
    if text is not None and kind != "captions":
        raise UserError(f"{artifact.folder} is not told captions; leave --text out.")
    if kind == "captions" and not (text or "").strip():
        raise UserError(f'{artifact.folder} is told what an image shows; add --text "a street in the rain".')
    if room not in (None, AUTO):
        _room(room, _rooms(artifact))


def _rooms(artifact: Artifact) -> Sequence[str]:
    from perception.data.nyu import NYU_ROOMS

    return artifact.config.get("names") or NYU_ROOMS


def _room(name: str, rooms: Sequence[str]) -> int:
    """Its class id. Raises UserError for a room that the model does not know."""
    if name not in rooms:
        near = get_close_matches(name, rooms, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose '{AUTO}' or one of {', '.join(rooms)}."
        raise UserError(f"The model knows no room '{name}'; {hint}")
    return list(rooms).index(name)


def _job(args: argparse.Namespace, artifact: Artifact) -> DepthJob:
    from perception.depth.job import DepthJob
    from perception.depth.predictor import DepthPredictor

    network = artifact.load(args.backbone)
    predictor = DepthPredictor(network, args.size, place(args), args.windows, args.flip)
    rooms: Sequence[str] = _rooms(artifact) if args.room == AUTO else ()
    given = args.text if args.room in (None, AUTO) else _room(args.room, _rooms(artifact))
    measured = meter(artifact, predictor.network.encoder)
    job = DepthJob(predictor, given, rooms, _settings(args, artifact), measured)
    job.revisions = revisions_of(artifact, network)
    return job


def _settings(args: argparse.Namespace, artifact: Artifact) -> dict[str, Any]:
    """What changes a result, by the names of the options."""
    names = ("size", "room", "text", "windows", "flip", "npy", "colours")
    return {"model": artifact.digest(), **{name: getattr(args, name) for name in names}}
