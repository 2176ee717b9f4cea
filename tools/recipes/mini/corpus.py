"""The training pictures and captions of `mini`: rendered once from the miniature world, kept as arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.data.world import CLASSES, DOMAINS, render_object, render_scene

DOMAIN_SHARES = (0.4, 0.15, 0.15, 0.15, 0.15)  # clear days are what most users start from
DESCRIPTIONS = 3  # captions of a scene that tell its domain; they come first


@dataclass(frozen=True)
class Corpus:
    """Pictures with several captions each."""

    images: NDArray[np.uint8]  # [N, 128, 128, 3], memory-mapped
    captions: list[list[str]]  # N lists
    groups: list[str]  # N times the domain of a scene, or "object"


def _scene_row(argument: tuple[int, int]) -> tuple[NDArray[np.uint8], list[str], str]:
    seed, index = argument
    domain = str(np.random.default_rng([seed, index, 11]).choice(DOMAINS, p=DOMAIN_SHARES))
    scene = render_scene(seed, index, domain)
    present = " ".join(CLASSES[label] for label in np.unique(scene.labels) if label < len(CLASSES))
    referring = [expression.text + "." for expression in scene.expressions[:6]]
    return scene.image, [*scene.captions, present, *referring], domain


def _object_row(argument: tuple[int, int]) -> tuple[NDArray[np.uint8], list[str], str]:
    drawn = render_object(*argument)
    return drawn.image, list(drawn.captions), "object"


def render_rows(
    row: Callable[[tuple[int, int]], Any], seed: int, count: int, workers: int, progress: Callable[[int], None]
) -> list[Any]:
    """Rows 0..count-1 of a stream, in order, drawn by `workers` processes; `progress` is told after each row."""
    rows = []
    with ProcessPoolExecutor(workers) as pool:
        for drawn in pool.map(row, [(seed, index) for index in range(count)], chunksize=32):
            rows.append(drawn)
            progress(len(rows))
    return rows


def build_corpus(
    folder: Path, seed: int, scenes: int, objects: int, workers: int, progress: Callable[[int], None] = lambda _: None
) -> Corpus:
    """Render the corpus into `folder` unless it is already there, and open it.

    Written under a temporary name and renamed at the end, so that a half-rendered corpus is never read.
    """
    name = f"corpus_{seed}_{scenes}_{objects}"
    images_file, texts_file = folder / f"{name}.npy", folder / f"{name}.json"
    if not (images_file.exists() and texts_file.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        rows = render_rows(_scene_row, seed, scenes, workers, progress)
        rows += render_rows(_object_row, seed, objects, workers, lambda done: progress(scenes + done))
        _write(rows, images_file, texts_file)
    texts = json.loads(texts_file.read_text())
    return Corpus(np.load(images_file, mmap_mode="r"), texts["captions"], texts["groups"])


def _write(rows: Sequence[Any], images_file: Path, texts_file: Path) -> None:
    partial = images_file.with_suffix(".partial.npy")
    np.save(partial, np.stack([row[0] for row in rows]))
    os.replace(partial, images_file)
    texts = {"captions": [row[1] for row in rows], "groups": [row[2] for row in rows]}
    partial = texts_file.with_suffix(".partial")
    partial.write_text(json.dumps(texts))
    os.replace(partial, texts_file)
