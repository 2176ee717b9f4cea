"""Train the embedded `mini` backbone on the miniature world: corpus, autoencoder, denoiser, export, typicality, report.

Every stage resumes: run the same command again. More --autoencoder-steps or --denoiser-steps continue the training.

    python tools/train_mini.py --work runs/mini                          # everything, then export into the package
    python tools/train_mini.py --work runs/mini --denoiser-steps 20000   # train the denoiser further, export again
    python tools/train_mini.py --work runs/more --start perception/backbones/mini --stages corpus denoiser export
    python tools/train_mini.py --work runs/mini --stages report          # measure what is there
    python tools/train_mini.py --stages typicality                       # of --out: how its own pictures look to it
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from perception.errors import exit_status

STAGES = ("corpus", "autoencoder", "denoiser", "export", "typicality", "report")
PACKAGE_FOLDER = Path(__file__).resolve().parent.parent / "perception" / "backbones" / "mini"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/mini"), help="corpus and checkpoints (default %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=PACKAGE_FOLDER, help="exported diffusers folder (default: the package's)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="what to run (default: all)")
    parser.add_argument("--start", type=Path, help="exported folder to start from where --work has no checkpoint")
    parser.add_argument("--scenes", type=int, default=8000, help="street scenes in the corpus (default %(default)s)")
    parser.add_argument(
        "--objects", type=int, default=12000, help="object pictures in the corpus (default %(default)s)"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=5000, help="of 16 crops each (default %(default)s)")
    parser.add_argument("--denoiser-steps", type=int, default=4000, help="training steps (default %(default)s)")
    parser.add_argument("--denoiser-batch", type=int, default=16, help="latents per step (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser's training (needs g++)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen stages; 0, or 2 with one sentence on stderr."""
    args = parse(argv)
    return exit_status("train_mini", lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Run the chosen stages in order."""
    from recipes.mini.recipe import MiniRecipe

    started = time.monotonic()

    def report(message: str) -> None:
        print(f"[{time.monotonic() - started:7.0f} s] {message}", flush=True)

    recipe = MiniRecipe(
        work=args.work,
        scenes=args.scenes,
        objects=args.objects,
        autoencoder_steps=args.autoencoder_steps,
        denoiser_steps=args.denoiser_steps,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        denoiser_batch=args.denoiser_batch,
        compile=args.compile,
        start=args.start,
        report=report,
    )
    if "corpus" in args.stages:
        recipe.corpus()
    if "autoencoder" in args.stages:
        recipe.autoencoder()
    if "denoiser" in args.stages:
        recipe.denoiser()
    if "export" in args.stages:
        report(f"wrote {args.out}: {recipe.export(args.out) / 1e6:.1f} MB")
    if "typicality" in args.stages:
        from recipes.mini.own_pictures import measure_world

        measure_world(args.out, report=report)
    if "report" in args.stages:
        report(json.dumps(recipe.measure(), indent=2))


if __name__ == "__main__":
    sys.exit(main())
