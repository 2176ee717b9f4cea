"""`perception extract`: features of a folder of images, into a store."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.commands.arguments import (
    DTYPES,
    a_name,
    a_path,
    add_backbone_arguments,
    add_job_arguments,
    comma_ints,
    comma_list,
    job_options,
    load_backbone_from,
    positive_int,
    show_summary,
    size_pair,
)
from perception.commands.asked import request_of
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.backbones.backbone import DiffusionBackbone
    from perception.backbones.extraction_job import ExtractJob
    from perception.backbones.spec import FeatureSpec
    from perception.data.store import TensorStore
    from perception.jobs.items import Item
    from perception.jobs.plan import CostPlan

SUMMARY = "write features of images into a store, for training, probing and your own use"
EXAMPLES = """perception extract --list-taps
perception extract photos/ --taps up_blocks.1,up_blocks.2 --timesteps 50,200 --out runs/features
torchrun --nproc-per-node 8 -m perception extract photos/ --taps up_blocks.1 --engine torchrun --out runs/features"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INPUT..., what to extract, and the shared options."""
    parser.add_argument("inputs", nargs="*", type=a_name, metavar="INPUT", help="image files and folders (recursive)")
    group = parser.add_argument_group("features")
    group.add_argument(
        "--taps", type=comma_list, default=(), help="names from --list-taps, such as up_blocks.1,mid_block"
    )
    group.add_argument("--timesteps", type=comma_ints, default=(50,), help="such as 50,200 (default: 50)")
    group.add_argument("--noise", choices=("none", "shared", "per_image"), default="shared", help="(default: shared)")
    group.add_argument(
        "--draws", type=positive_int, default=1, metavar="N", help="mean over N noises per timestep (default: 1)"
    )
    group.add_argument(
        "--aggregate", choices=("concat", "mean", "stack"), default="concat", help="timesteps (default: concat)"
    )
    group.add_argument("--prompt", default="", help="text that the denoiser is told (default: none)")
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument(
        "--fit", choices=("crop", "squash"), default="crop", help="cut the centre or distort (default: crop)"
    )
    group.add_argument("--store", type=a_path, help="a store shared by several jobs (default: OUT itself)")
    group.add_argument("--store-dtype", choices=DTYPES, default="float16", help="of a new store (default: float16)")
    group.add_argument("--list-taps", action="store_true", help="print the taps of the backbone, and stop")
    add_backbone_arguments(parser)
    add_job_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """List taps, plan, or extract; 1 when an image failed."""
    if args.list_taps:
        print(tap_table(load_backbone_from(args)))
        return 0
    from perception.backbones.spec import FeatureSpec
    from perception.jobs.items import image_items
    from perception.jobs.runner import run_job

    if not args.taps:
        raise UserError("No taps were given; add --taps NAME,... with names from `perception extract --list-taps`.")
    spec = FeatureSpec(args.taps, args.timesteps, args.noise, args.seed, args.aggregate, args.prompt, args.draws)
    items = image_items(args.inputs, args.out)
    if args.dry_run:
        print(_plan(args, items, spec).render())
        return 0
    request = request_of(args, still_valid=_Stored(args.store or args.out))
    return show_summary(run_job(items, lambda: _extractor(args, spec), job_options(args), request))


class _Stored:
    """Whether the store has what a manifest record points to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store: TensorStore | None = None

    def __call__(self, record: dict[str, Any]) -> bool:
        from perception.data.store import TensorStore

        self._store = self._store or TensorStore(self.folder, read_only=True)
        return record["key"] in self._store


def tap_table(backbone: DiffusionBackbone) -> str:
    """One line per tap: name, kind, channels, stride in pixels."""
    rows = [("tap", "kind", "channels", "stride")]
    rows += [(tap.name, tap.kind, str(tap.channels), str(tap.stride)) for tap in backbone.taps.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>8}  {row[3]:>6}" for row in rows)


def _extractor(args: argparse.Namespace, spec: FeatureSpec) -> ExtractJob:
    import torch

    from perception.backbones.extraction_job import ExtractJob

    backbone, store_dtype = load_backbone_from(args), getattr(torch, args.store_dtype)
    return ExtractJob(backbone, spec, args.store or args.out, store_dtype, args.size, args.fit)


def _plan(args: argparse.Namespace, items: Sequence[Item], spec: FeatureSpec) -> CostPlan:
    """Measure one image of the right size; nothing is written."""
    import torch

    from perception.backbones.image_size import image_size
    from perception.jobs.plan import measure, plan, remaining

    backbone = load_backbone_from(args)
    height, width = image_size(backbone, args.size)
    pixels, maps = torch.full((1, 3, height, width), 0.5), {}

    def extract_one() -> None:
        with torch.no_grad():
            maps.update(backbone.features(pixels, spec))

    todo = remaining(items, args.out)
    measured = measure(extract_one, backbone.device, once=todo <= 1)
    values = sum(value.numel() for value in maps.values())
    values += backbone.latent_channels * height * width // backbone.latent_stride**2
    return plan(
        measured,
        todo,
        batch_size=args.batch_size,
        evaluations=len(spec.timesteps) * spec.draws,
        disk_bytes=values * getattr(torch, args.store_dtype).itemsize,
    )
