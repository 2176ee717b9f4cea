"""Train the embedded `mini-dit` backbone on Fashion-MNIST: plain denoising, tuning, export, typicality, report.

Every stage resumes: run the same command again. More --steps or --tune-steps continue the training.

    python tools/train_mini_dit.py --data data/fashion_mnist                        # everything, into the package
    python tools/train_mini_dit.py --stages tune export --tune-steps 6000           # tune further, export again
    python tools/train_mini_dit.py --stages typicality         # of --out: how its own pictures look to it
    python tools/train_mini_dit.py --stages report --weights train --images 1000    # measure the plain denoiser
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from perception.errors import exit_status

STAGES = ("train", "tune", "export", "typicality", "report")
PACKAGE_FOLDER = Path(__file__).resolve().parent.parent / "perception" / "backbones" / "mini-dit"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/mini_dit"), help="checkpoints (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("data/fashion_mnist"), help="the four gz files (default %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=PACKAGE_FOLDER, help="exported diffusers folder (default: the package's)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="what to run (default: all)")
    parser.add_argument("--steps", type=int, default=6000, help="of plain denoising (default %(default)s)")
    parser.add_argument("--tune-steps", type=int, default=3300, help="with a wrong class each (default %(default)s)")
    parser.add_argument(
        "--negative-weight", type=float, default=0.05, help="of the wrong classes in the tuning (default %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures per step (default %(default)s)")
    parser.add_argument("--flip-share", type=float, default=0.0, help="pictures mirrored (default %(default)s)")
    parser.add_argument(
        "--weights", choices=STAGES[:2], default="tune", help="what to export and measure (default %(default)s)"
    )
    parser.add_argument("--images", type=int, default=500, help="test pictures of the report (default %(default)s)")
    parser.add_argument("--timesteps", type=int, default=25, help="per picture and class (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen stages; 0, or 2 with one sentence on stderr."""
    args = parse(argv)
    return exit_status("train_mini_dit", lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Run the chosen stages in order."""
    from recipes.mini.dit_recipe import DiTRecipe

    started = time.monotonic()

    def report(message: str) -> None:
        print(f"[{time.monotonic() - started:7.0f} s] {message}", flush=True)

    recipe = DiTRecipe(
        work=args.work,
        data=args.data,
        steps=args.steps,
        tune_steps=args.tune_steps,
        negative_weight=args.negative_weight,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        batch_size=args.batch,
        flip_share=args.flip_share,
        report=report,
    )
    if "train" in args.stages:
        recipe.train()
    if "tune" in args.stages:
        recipe.tune()
    if "export" in args.stages:
        report(f"wrote {args.out}: {recipe.export(args.out, args.weights) / 1e6:.1f} MB")
    if "typicality" in args.stages:
        from recipes.mini.own_pictures import measure_fashion_mnist

        measure_fashion_mnist(args.out, args.data, report=report)
    if "report" in args.stages:
        report(json.dumps(recipe.measure(args.weights, args.images, args.timesteps), indent=2))


if __name__ == "__main__":
    sys.exit(main())
