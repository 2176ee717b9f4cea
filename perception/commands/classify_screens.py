"""The options of `perception classify` for cheaper rounds before the race."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from perception.commands.common import positive_int, size_pair
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.classification.screening import Screens

SMALL_SAMPLES = 48  # per candidate on the small image at most


def add_screen_arguments(parser: argparse.ArgumentParser) -> None:
    """--preselect, --preselect-clip, --screen-size, --screen-samples."""
    group = parser.add_argument_group(
        "cheaper rounds first (approximate: a class that they drop cannot win; --budget counts the race after them)"
    )
    group.add_argument(
        "--preselect",
        type=positive_int,
        metavar="N",
        help="let N classes race: clusters of the backbone's own text embeddings are ranked by the class in their "
        "middle, and the best ones expanded (default: all classes race)",
    )
    group.add_argument(
        "--preselect-clip",
        metavar="MODEL",
        help="with --preselect: the N classes whose prompts are most similar to the image for this CLIP model race, "
        "without the clusters; a hub id, or a transformers folder with tokenizer and preprocessor_config.json",
    )
    group.add_argument(
        "--screen-size",
        type=size_pair,
        metavar="PX",
        help="side, or HEIGHTxWIDTH, of a smaller image for the first rounds; survivors race on the full one",
    )
    group.add_argument(
        "--screen-samples",
        type=positive_int,
        metavar="N",
        help=f"with --screen-size: samples per candidate at most (default: {SMALL_SAMPLES}; fixed: its first stage)",
    )


def chosen_screens(args: argparse.Namespace) -> Screens | None:
    """The rounds of parsed arguments. Raises UserError for options that do not go together."""
    if args.screen_size is None and args.screen_samples is not None:
        raise UserError("--screen-samples belongs to --screen-size PX; add it, or leave this out")
    if args.preselect_clip is not None and args.preselect is None:
        raise UserError("--preselect-clip belongs to --preselect N, the number of classes that race; add it")
    if args.screen_size is not None and args.noise is not None:
        raise UserError("--noise FILE has noise of one size, and --screen-size needs two; use --seed in its place")
    if args.preselect is None and args.screen_size is None:
        return None
    from perception.classification.screening import Screens

    small = None if args.screen_size is None else args.screen_samples or SMALL_SAMPLES
    return Screens(args.preselect, small_samples=small)
