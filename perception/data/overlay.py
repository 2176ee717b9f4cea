"""Label maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def colour_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Class ids uint8 [H, W] to colours uint8 [H, W, 3]; ids outside the palette (such as 255) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[labels]


def overlay_labels(
    image: np.ndarray,  # uint8 [H, W, 3], RGB
    labels: np.ndarray,  # uint8 [H, W]
    palette: Sequence[Sequence[int]],
    opacity: float = 0.6,  # of the colours, in [0, 1]
) -> np.ndarray:
    """The colours of a label map over its image, uint8 [H, W, 3]; pixels without a colour show the image."""
    coloured = labels[..., None] < len(palette)  # [H, W, 1]
    mixed = (1 - opacity) * image + opacity * colour_labels(labels, palette)
    return np.where(coloured, np.rint(mixed).astype(np.uint8), image)
