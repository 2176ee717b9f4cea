"""Quirks of the reference that its fixtures were recorded with, and that nothing of the package needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.generation.crops import Below
from perception.generation.labels import IGNORE, large_components
from perception.generation.windows import overlapping_tiles


def reference_views(height: int, width: int, window: int, stride: int) -> list[tuple[int, int, int, int]]:
    """The reference's tile list (left, top, right, bottom)."""
    tiles = overlapping_tiles(height, width, window, stride, "drop")
    return [(t.window.left, t.window.top, t.window.right, t.window.bottom) for t in tiles]


def reference_below(rng: np.random.Generator) -> Below:
    """As the reference draws a pixel: its upper bound is one too low, so the last pixel is never taken."""
    return lambda count: int(rng.integers(0, count - 1))


def small_components(labels: np.ndarray, area: float) -> np.ndarray:
    """bool [H, W]: pixels of components of at most `area` pixels."""
    return ~large_components(labels, area) & (labels != IGNORE)


def reference_saved_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """What the reference writes to disk: 255 replaced by the number of classes. For parity only."""
    return np.where(labels == IGNORE, classes, labels).astype(np.uint8)


def label_statistics(labels: np.ndarray, names: Sequence[str], others: str = "others") -> dict[str, int]:
    """Class name -> pixels for every class, and `others` for what is ignored (id 255, or the ignore channel's)."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    rows = {name: int(counts[i]) for i, name in enumerate(names)}
    return rows | {others: int(counts[len(names)] + counts[IGNORE])}


def labels_of_colours(picture: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """RGB uint8 [H, W, 3] -> label map [H, W]; colours that are not in the palette become 255."""
    code = picture.astype(np.int64) @ np.array([65536, 256, 1])
    labels = np.full(picture.shape[:2], IGNORE, np.uint8)
    for index, (red, green, blue) in enumerate(palette):
        labels[code == (red << 16) + (green << 8) + blue] = index
    return labels
