"""The tour behind `make demo`: train a segmentation head, compare it with a random backbone, classify pictures.

    python tools/demo.py                 # CamVid if in data/camvid or $PERCEPTION_CAMVID, else the miniature world
    python tools/demo.py --data world    # the miniature world in any case

Every step is a command that you can run yourself; it is printed before it starts. A second run keeps finished steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL_WORLD = (
    "train_dataloader.dataset.dataset.count=500",
    "val_dataloader.dataset.count=100",
    "test_dataloader.dataset.count=100",
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "camvid", "world"), default="auto", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="results (default %(default)s)")
    parser.add_argument("--objects", type=int, default=30, help="pictures to classify (default %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all steps and print what came out."""
    args = parse(argv)
    started = time.monotonic()
    camvid = Path(os.environ.get("PERCEPTION_CAMVID", ROOT / "data" / "camvid"))
    data = ("camvid" if camvid.is_dir() else "world") if args.data == "auto" else args.data
    where = ["--data-root", str(camvid)] if data == "camvid" else []
    options = [] if data == "camvid" else list(SMALL_WORLD)
    scores = {
        name: segmentation(data, where, [*options, *extra], args.out / f"{data}_{name}")
        for name, extra in (("mini", []), ("random", ["model.backbone.random_init_seed=0"]))
    }
    accuracy = classification(args.out, args.objects)
    minutes = (time.monotonic() - started) / 60
    print(f"\n--- done in {minutes:.1f} minutes ---")
    print(f"segmentation, test mIoU on {data}: {scores['mini']:.1f} on mini, {scores['random']:.1f} on random weights")
    print(f"zero-shot labels: {accuracy:.0%} of {args.objects} held-out pictures right")
    print(f"pictures: {args.out / f'{data}_mini' / 'pictures'}   labels: {args.out / 'labels' / 'manifest.jsonl'}")


def segmentation(data: str, where: Sequence[str], options: Sequence[str], folder: Path) -> float:
    """Train and test one head; returns its test mIoU in percent."""
    config = f"configs/fpn/fpn_mini_{data}.py"
    overrides = ["--cfg-options", *options] if options else []
    if not (folder / "model" / "config.json").exists():
        resume = ["--resume"] if (folder / "last_checkpoint").exists() else []
        run("tools/train.py", config, *where, "--work-dir", str(folder), *resume, *overrides)
    show = ["--show-dir", str(folder / "pictures"), "--work-dir", str(folder / "test")]
    kept = [option for option in options if not option.startswith("model.")]  # the model comes from the folder
    run("tools/test.py", config, str(folder / "model"), *where, *show, *(["--cfg-options", *kept] if kept else []))
    return float(json.loads((folder / "test" / "test_metrics.json").read_text())["mIoU"])


def classification(out: Path, count: int) -> float:
    """Draw held-out objects, classify them with ten names; returns the share of right labels."""
    from PIL import Image

    from perception.data.world import TEN_OBJECTS, TEST_SEED, render_object

    pictures, truth = out / "objects", {}
    pictures.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        drawn = render_object(TEST_SEED, index, TEN_OBJECTS[index % len(TEN_OBJECTS)])
        Image.fromarray(drawn.image).save(pictures / f"{index:03d}.png")
        truth[f"{index:03d}.png"] = drawn.category
    classes = ["--classes", ",".join(TEN_OBJECTS), "--template", "a photo of a {}."]
    run("-m", "perception", "classify", str(pictures), *classes, "--out", str(out / "labels"))
    lines = [json.loads(line) for line in (out / "labels" / "manifest.jsonl").read_text().splitlines()]
    return sum(line.get("label") == truth[line["id"]] for line in lines if line["id"] in truth) / count


def run(*arguments: str) -> None:
    """Print and run one command of the project; stop the tour when it fails."""
    print("\n$ python " + " ".join(arguments), flush=True)
    finished = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("demo: interrupted; run it again to continue", file=sys.stderr)
        sys.exit(130)
