"""Connected components of label maps: the large ones are held on the coarse pass, the small ones are what it misses."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from perception.generation.labels import IGNORE

_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def components(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of equal class, 255 excluded.

    Returns:
        Component numbers int32 [H, W] (1.. by class id, then in scan order; 0: ignored), and areas in pixels by number
        (index 0: the ignored pixels).
    """
    numbers, count = np.zeros(labels.shape, np.int32), 0
    for label in np.unique(labels[labels != IGNORE]):
        found, many = ndimage.label(labels == label, _EIGHT_NEIGHBOURS)
        numbers[found > 0] = found[found > 0] + count
        count += many
    return numbers, np.bincount(numbers.reshape(-1), minlength=count + 1)


def large_components(labels: np.ndarray, area: float) -> np.ndarray:
    """bool [H, W]: pixels of components of more than `area` pixels."""
    numbers, areas = components(labels)
    chosen = areas > area
    chosen[0] = False  # ignored pixels
    return chosen[numbers]


def mask_on_latents(mask: np.ndarray | Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [..., H, W] -> float32 [..., h, w] of zeros and ones at the latents' size: the nearest pixel decides.

    Source row = floor(row * H / h), without an area vote, as the reference has it.
    """
    pixels = torch.as_tensor(mask).float()
    flat = F.interpolate(pixels.reshape(-1, 1, *pixels.shape[-2:]), size=size, mode="nearest")
    return flat.reshape(*pixels.shape[:-2], *size)
