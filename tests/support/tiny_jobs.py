"""One small job of every command that writes files, on `mini` and its heads: command lines without --out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from perception.data.world import render_scene

NAMES = ("car", "person", "tree")
SIZE = (64, 64)


def tiny_jobs(root: Path, count: int = 4) -> dict[str, list[str]]:
    """Write inputs below `root`; the jobs have `count` items each.

    `classify` has the errors of every image below OUT, `referring` is `segment` with sentences.
    """
    for number in range(count):
        scene = render_scene(2, number, "clear", SIZE)
        _save(root / "photos" / NAMES[number % 3] / f"{number}.png", scene.image)
        _save(root / "set" / "images" / f"{number}.png", scene.image)
        _save(root / "set" / "labels" / f"{number}_labelTrainIds.png", scene.labels)
    (root / "captions.txt").write_text("a car\na person\n")
    job = ["--device", "cpu", "--no-progress"]
    photos = [str(root / "photos"), *job, "--batch-size", "2"]  # two workers have one batch of four images each
    scenes = ["--labels", str(root / "set" / "labels"), "--control", "mini-control", "--domains", "night,fog"]
    return {
        "extract": ["extract", *photos, "--taps", "up_blocks.1", "--timesteps", "50", "--size", "64"],
        "classify": ["classify", *photos, "--size", "64", "--samples", "2,4", "--keep", "2,1", "--save-errors"],
        "segment": ["segment", *photos],
        "referring": ["segment", *photos, "--text", "the car", "--text", "a tree"],
        "depth": ["depth", *photos, "--npy"],
        "match": ["match", *photos, "--captions", str(root / "captions.txt"), "--size", "64", "--samples", "3"],
        "generate": ["generate", *scenes, "--size", "64", "--steps", "1", "--rescale", "1", *job],
        "score": ["score", str(root / "set"), "--reference-world", "2", "--min-score", "0", *job, "--batch-size", "2"],
    }


def script_environment() -> dict[str, str]:
    """Of scripts that tests start: these modules on the path, sums in one order (as torchrun has it)."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def contents(out: Path) -> dict[str, bytes]:
    """Everything below OUT but locks, by relative path."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
