"""Sampler options of `perception generate`: arguments to GenerationOptions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from perception.commands.arguments import comma_list, positive_int, size_pair

if TYPE_CHECKING:
    from perception.generation.options import GenerationOptions

PRESETS = ("exact", "fast", "reference")
_FIELDS = (
    "size", "steps", "guidance_scale", "guidance_interval", "negative_prompt", "solver", "control_scales", "told",
    "rescale", "window", "stride", "layout", "border", "held_area", "held_noise", "strength",
)  # fmt: skip


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """--preset, and one argument per option that changes it."""
    group = parser.add_argument_group("sampler (default: as the preset has it)")
    group.add_argument(
        "--preset",
        choices=PRESETS,
        default="exact",
        help="exact; fast: shifted windows, 15 steps; reference: the published code with its bugs (default: exact)",
    )
    add = group.add_argument
    add("--size", type=size_pair, metavar="HxW", help="of crops and images in pixels, one side or HxW")
    add("--steps", type=positive_int, help="of either pass")
    add("--guidance", type=float, dest="guidance_scale", metavar="G", help="classifier-free guidance; 1: none")
    add("--guidance-interval", type=comma_floats, metavar="A,B", help="share of the steps that are guided")
    add("--negative-prompt", metavar="TEXT")
    add("--solver", choices=("ddim", "dpmsolver++", "unipc"))
    add("--control-scale", type=comma_floats, dest="control_scales", metavar="S,S", help="one for each network")
    add("--told", choices=("both", "conditional", "guess"), help="guided rows that see the control")
    add("--rescale", type=float, help="size of the second pass over the first; 1: no second pass")
    add("--window", type=positive_int, help="side of a tile, latent cells")
    add("--stride", type=positive_int, help="between overlapping tiles, latent cells")
    add("--layout", choices=("overlap", "shifted"), help="shifted: disjoint tiles that move at every step")
    add("--border", choices=("clamp", "drop"))
    add("--held-area", type=float, metavar="PIXELS", help="components above it follow the first pass")
    add("--held-noise", choices=("previous", "t_minus_1"))
    add("--strength", type=float, help="share of the steps that the second pass does")
    add("--rows", type=positive_int, default=16, help="windows per denoiser call; for memory and speed (default: 16)")
    add("--compile", action="store_true", help="torch.compile the networks, for long jobs (minutes at the start)")


def generation_options(args: argparse.Namespace) -> GenerationOptions:
    """The options of parsed arguments. Raises UserError naming everything that is wrong."""
    from perception.generation.options import preset

    given = {name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None}
    return preset(args.preset, **given)


def comma_floats(text: str) -> tuple[float, ...]:
    """An argparse type: '0.2,0.8' as (0.2, 0.8)."""
    return tuple(float(part) for part in comma_list(text))
