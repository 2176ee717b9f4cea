"""Arguments that several commands share, and their way into objects. Imports torch only when asked to load."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from perception.errors import UserError
from perception.jobs.contract import ENGINES, JobOptions, JobSummary, RayOptions

if TYPE_CHECKING:
    from perception.backbones.backbone import DiffusionBackbone

MINI = "mini is a miniature model trained on drawn street scenes and objects: for trying things, not for photographs."
DTYPES = ("float32", "bfloat16", "float16")


def add_backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """--backbone, --vae, --device, --dtype, --random-init-seed."""
    group = parser.add_argument_group("backbone")
    group.add_argument(
        "--backbone", default="mini", help="'mini', a local diffusers folder, or a hub id (default: mini)"
    )
    group.add_argument("--vae", help="folder or hub id of another autoencoder (default: the backbone's own)")
    group.add_argument("--revision", help="branch, tag or commit of a --backbone of the hub (default: its main branch)")
    group.add_argument("--device", help="torch device (default: the best one present)")
    group.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of weights and activations (default: float32)"
    )
    group.add_argument(
        "--random-init-seed", type=int, metavar="SEED", help="random weights instead: the control experiment"
    )


def add_denoiser_arguments(group: argparse._ArgumentGroup) -> None:
    """--rows, --compile."""
    group.add_argument("--rows", type=positive_int, default=32, help="rows per denoiser call (default: 32)")
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the denoiser, for long jobs (minutes at the start)",
    )


def add_job_arguments(
    parser: argparse.ArgumentParser, *, batch_size: int | None = 8, chosen: str | None = None
) -> None:
    """--out, --batch-size, --engine, --workers, --seed, --commit-seconds, --dry-run, --no-progress, --ray-...

    `chosen` says in words what the command takes where `batch_size` is None.
    """
    group = parser.add_argument_group("job")
    group.add_argument("--out", type=a_path, help="output folder; the same command again resumes")
    group.add_argument(
        "--batch-size", type=positive_int, default=batch_size, help=f"items per step (default: {chosen or batch_size})"
    )
    group.add_argument(
        "--engine", choices=ENGINES, default="local", help="'torchrun' when started by torchrun, 'ray': several workers"
    )
    group.add_argument("--workers", type=positive_int, default=2, help="threads that read images (default: 2)")
    group.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    group.add_argument(
        "--commit-seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="finished items are safe from kill -9 after so long (default: 5; extract: with their shard)",
    )
    group.add_argument("--dry-run", action="store_true", help="print what the job would cost, and stop")
    group.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")
    ray = parser.add_argument_group("--engine ray")
    ray.add_argument("--ray-workers", type=positive_int, metavar="N", help="(default: one per GPU, one without GPUs)")
    ray.add_argument("--ray-gpus", type=float, metavar="N", help="of a worker, such as 0.5 (default: 1, 0 on the CPU)")
    ray.add_argument(
        "--ray-cpus", type=positive_int, metavar="N", help="of a worker, also its threads (default: a fair share)"
    )
    ray.add_argument("--ray-address", metavar="HOST:PORT", help="of a cluster (default: one of this machine alone)")


def job_options(args: argparse.Namespace, *, batch_size: int | None = None) -> JobOptions:
    """The job options of parsed arguments; `batch_size` stands in for that of the arguments.

    Raises UserError without --out.
    """
    if args.out is None:
        raise UserError("No output folder was given; add --out FOLDER.")
    return JobOptions(
        out=args.out,
        batch_size=batch_size or args.batch_size,
        engine=args.engine,
        workers=args.workers,
        progress=args.progress,
        seed=args.seed,
        commit_seconds=args.commit_seconds,
        ray=_ray_options(args),
    )


def _ray_options(args: argparse.Namespace) -> RayOptions:
    given = {name: getattr(args, f"ray_{name}") for name in ("workers", "gpus", "cpus", "address")}
    if args.engine != "ray":
        unused = [f"--ray-{name}" for name, value in given.items() if value is not None]
        if unused:
            raise UserError(f"{', '.join(unused)} means nothing to the engine '{args.engine}'; add --engine ray.")
        return RayOptions()
    device = getattr(args, "device", None) or "cuda"
    if device.startswith("cuda:"):
        raise UserError(f"Ray gives each worker a GPU of its own, so --device {device} names none; use --device cuda.")
    if device != "cuda" and given["gpus"] is None:
        given["gpus"] = 0.0
    return RayOptions(**given)


def load_backbone_from(args: argparse.Namespace) -> DiffusionBackbone:
    """The backbone of parsed arguments; under torchrun each rank takes the GPU of its LOCAL_RANK."""
    from perception.backbones.loading.load import load_backbone

    backbone = load_backbone(
        args.backbone,
        dtype=args.dtype,
        device=args.device or local_device(),
        random_init_seed=args.random_init_seed,
        vae=args.vae,
        revision=args.revision,
    )
    if getattr(args, "compile", False) and not args.dry_run:
        backbone.compile_denoiser()
    return backbone


def show_summary(summary: JobSummary) -> int:
    """Print the summary, once for all ranks; returns the exit status of the job."""
    if summary.rank == 0:
        print(summary.render())
    return summary.exit_code


def a_path(text: str) -> Path:
    """An argparse type: the name of a file or folder; "" (an unset variable of the shell) is not taken for "."."""
    return Path(a_name(text))


def a_name(text: str) -> str:
    """An argparse type: as `a_path`, but as text."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; give the name of a file or folder")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} holds a NUL byte, which no file has in its name; check the path")
    return text


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def natural_int(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not at least 0")
    return value


def size_pair(text: str) -> tuple[int, int]:
    """An argparse type: '512' as (512, 512), '512x768' as (512, 768): height, width."""
    sides = [int(part) for part in text.lower().split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 512 or 512x768")
    return sides[0], sides[-1]


def comma_list(text: str) -> tuple[str, ...]:
    """An argparse type: 'a,b,c' as ('a', 'b', 'c'), without empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def comma_ints(text: str) -> tuple[int, ...]:
    """An argparse type: '50,100' as (50, 100)."""
    return tuple(int(part) for part in comma_list(text))


def local_device() -> str | None:
    """The GPU of this rank under torchrun; None elsewhere."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None or not torch.cuda.is_available():
        return None
    return f"cuda:{int(local_rank) % torch.cuda.device_count()}"
