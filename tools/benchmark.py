"""Measure what the fast paths save, as ratios of neighbouring runs on this machine.

python tools/benchmark.py
python tools/benchmark.py --backbone stable-diffusion-v1-5/stable-diffusion-v1-5 --size 512 --dtype bfloat16
python tools/benchmark.py --rows early_stop sentences
python tools/benchmark.py --rows waterfall --batch 16 --compile
python tools/benchmark.py --rows waterfall --backbone mini-dit --size 28 --batch 64 --dataset fashion_mnist --root DIR
python tools/benchmark.py --rows waterfall --batch 64 --rows-per-call 128 --compile --device cuda
python tools/benchmark.py --rows windows --compile
python tools/benchmark.py --backbone random-sd1 --rows epochs --scenes 16 --configs configs/fpn/fpn_mini_world.py
python tools/benchmark.py --rows epochs --size 256 --cfg-options model.backbone.timesteps=50,150,300
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perception.errors import UserError, exit_status

if TYPE_CHECKING:
    from perception.backbones.backbone import DiffusionBackbone

ROWS = (
    "early_stop",
    "timesteps",
    "sentences",
    "training_step",
    "windows",
    "memory",
    "epochs",
    "waterfall",
)
_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
TRAININGS = (_CONFIGS / "fpn" / "fpn_mini_world.py", _CONFIGS / "linear" / "linear_mini_world.py")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbone",
        default="mini",
        help="mini, a local folder, a hub id, or random-sd1: Stable Diffusion 1.x with random weights (%(default)s)",
    )
    parser.add_argument("--size", type=int, default=128, help="image side in pixels (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per batch (default %(default)s)")
    parser.add_argument(
        "--scenes", type=int, default=96, help="training scenes of the epochs row (default %(default)s)"
    )
    parser.add_argument("--device", default=None, help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS[:-1], help="(default: all but waterfall)")
    parser.add_argument(
        "--configs", nargs="+", type=Path, default=TRAININGS, help="of the epochs row, miniature world (default: two)"
    )
    parser.add_argument(
        "--rows-per-call", type=int, default=32, help="most denoiser rows per call of waterfall (default %(default)s)"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="of waterfall: its first pictures, not the miniature world (as in classify)"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder that holds the --dataset")
    parser.add_argument(
        "--compile", action="store_true", help="one step more of waterfall and windows, with torch.compile"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="of the configs of the epochs row"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per comparison; 0, or 2 with one sentence on stderr."""
    args = parse(argv)
    return exit_status("benchmark", lambda: compare(args), "run it again")


def compare(args: argparse.Namespace) -> None:
    """Measure the backbone, or one of random weights that is made for the occasion."""
    if (args.dataset is None) != (args.root is None):
        raise UserError("--dataset NAME and --root DIR, the folder that holds it, go together; give both or neither")
    if args.backbone != "random-sd1":
        return measure(args)
    from benchmarks.random_sd1 import write_stable_diffusion_1

    with tempfile.TemporaryDirectory() as folder:
        args.backbone = str(write_stable_diffusion_1(Path(folder)))
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """All rows that were asked for."""
    import torch
    from benchmarks import savings

    from perception.backbones.loading.load import load_backbone

    backbone = load_backbone(args.backbone, dtype=args.dtype, device=args.device)
    print(f"{args.backbone}, {args.size} px, {backbone.device}, {args.dtype}, {torch.get_num_threads()} CPU threads")
    print(savings.HEADER)
    rows = {
        "early_stop": lambda: savings.early_stop(backbone, args.size, args.batch),
        "timesteps": lambda: savings.timesteps_in_one_call(backbone, args.size, 2),
        "sentences": lambda: savings.referring_sentences(backbone, args.size),
        "training_step": lambda: savings.training_step(backbone, args.size, args.batch),
        "windows": lambda: savings.fused_windows(backbone, args.size),
    }
    for name, run in rows.items():
        if name in args.rows:
            print(run().render(), flush=True)
    if "windows" in args.rows and args.compile:
        again = load_backbone(args.backbone, dtype=args.dtype, device=args.device)
        print(savings.compiled_windows(again, args.size).render(), flush=True)
    if "memory" in args.rows and backbone.device.type == "cpu":
        from benchmarks.memory import kept_memory

        print(kept_memory(args.backbone, args.dtype, args.size, args.batch).render(), flush=True)
    if "epochs" in args.rows:
        from benchmarks.epochs import epoch_seconds

        for config in args.configs:
            first, second = epoch_seconds(config, args.backbone, args.scenes, args.size, args.cfg_options)
            ratio = f"first {first:.2f} s, second {second:.2f} s, {first / second:.1f}x"
            print(f"training epoch, {config.stem}, {args.scenes} scenes: {ratio}", flush=True)
    if "waterfall" in args.rows:
        show_waterfall(args, backbone)


def show_waterfall(args: argparse.Namespace, backbone: DiffusionBackbone) -> None:
    """Zero-shot classification in ever better ways, on the miniature world or a data set."""
    from benchmarks import waterfall

    from perception.backbones.loading.load import load_backbone

    if args.dataset is None:
        objects = waterfall.world_objects(args.batch, args.size)
    else:
        told = backbone.class_names is not None
        objects = waterfall.set_pictures(args.dataset, args.root, args.batch, args.size, told)
    what = "objects of the miniature world" if args.dataset is None else f"pictures of {args.dataset}"
    print(f"zero-shot classification of {len(objects[0])} {what} (fixed schedules: two), per image")
    print(waterfall.HEADER)
    reduced = load_backbone(args.backbone, dtype="bfloat16", device=args.device)
    for step in waterfall.waterfall(backbone, *objects, rows=args.rows_per_call, reduced=reduced, compile=args.compile):
        print(step.render(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
