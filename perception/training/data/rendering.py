"""Scenes of the miniature world as arrays, rendered once and kept in a folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perception.data import world
from perception.data.files import write_atomic
from perception.data.world import Scene
from perception.errors import UserError

Place = tuple[int, int, str, tuple[int, int]]  # seed, index, domain, (height, width)
SEEDS = {"train": world.TRAIN_SEED, "val": world.VAL_SEED, "test": world.TEST_SEED}
Truth = Literal["labels", "depth", "expressions"]


def scene_records(split: str, count: int, domain: str, size: Sequence[int]) -> list[dict[str, Any]]:
    """`scene` (seed, index, domain, size) and `img_path` (a name, no file) of the first `count` scenes of a split.

    Raises:
        UserError: an unknown split or domain.
    """
    for what, value, choices in (("split", split, tuple(SEEDS)), ("domain", domain, world.DOMAINS)):
        if value not in choices:
            raise UserError(f"the miniature world has no {what} {value!r}; choose one of {', '.join(choices)}")
    seed, (height, width) = SEEDS[split], size
    return [
        {"scene": (seed, i, domain, (height, width)), "img_path": f"world-{domain}-{height}x{width}-{seed}-{i:06d}"}
        for i in range(count)
    ]


def scene_arrays(place: Place, truth: Truth, cache: Path | None = None) -> dict[str, np.ndarray]:
    """`image` (RGB uint8 [H, W, 3]) of a scene and one kind of ground truth.

    Args:
        place: which scene.
        truth: "labels" (uint8 [H, W]), "depth" (float32 [H, W], metres, 0 = sky), or "expressions": `texts` [N] and
            `masks` (bool [N, H, W]).
        cache: folder of rendered scenes; None renders anew.
    """
    path = cache and cache / _renderer() / _file_name(place, truth)
    if path and path.exists():
        with np.load(path) as stored:
            return dict(stored)
    arrays = _arrays(world.render_scene(*place), truth)
    if path:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
        write_atomic(path, buffer.getvalue())
    return arrays


def _arrays(scene: Scene, truth: Truth) -> dict[str, np.ndarray]:
    if truth != "expressions":
        return {"image": scene.image, truth: getattr(scene, truth)}
    masks = [expression.mask for expression in scene.expressions]
    return {
        "image": scene.image,
        "texts": np.array([expression.text for expression in scene.expressions], dtype=str),
        "masks": np.stack(masks) if masks else np.zeros((0, *scene.labels.shape), bool),
    }


def _file_name(place: Place, truth: Truth) -> str:
    seed, index, domain, size = place
    kind = "" if truth == "labels" else f"-{truth}"
    return f"{domain}-{size[0]}x{size[1]}-{seed}-{index:06d}{kind}.npz"


@lru_cache
def _renderer() -> str:
    """Hash of the renderer's source: scenes of another version of the world are other scenes."""
    sources = sorted(Path(world.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in sources)).hexdigest()[:12]
