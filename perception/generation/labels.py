"""Label maps: one-hot control images, class counts, colours, connected components.

Large components are held on the coarse pass; small ones are what it misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from perception.checks import check_arrays
from perception.data.segmentation_folder import exact_ids
from perception.data.world.vocabulary import CLASSES, PALETTE
from perception.errors import UserError

IGNORE = 255
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive


@dataclass(frozen=True)
class Vocabulary:
    """The classes a generator is conditioned on, in the order of their ids; 255 is "ignore" and no class.

    Raises:
        UserError: for no or too many classes, doubled names, or a palette of another length.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()  # RGB by class id; () where colours are not wanted
    file_ids: tuple[tuple[int, int], ...] = ()  # (id in the files, class id or 255), of maps in other ids; () = as is

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE:
            raise UserError(f"the vocabulary has {len(self.names)} classes; expected 1 to {IGNORE}")
        if len(set(self.names)) != len(self.names):
            raise UserError(f"the vocabulary {', '.join(self.names)} names a class twice; name each once")
        if self.palette and len(self.palette) != len(self.names):
            raise UserError(
                f"the palette has {len(self.palette)} colours for {len(self.names)} classes; give one for each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def channels(self) -> int:
        """Channels of the control tensor: one per class and one for "ignore"."""
        return len(self.names) + 1

    def translated(self, labels: np.ndarray, name: str = "the label map") -> np.ndarray:
        """A map in the ids of the files, uint8 [H, W], in the ids of the classes; 255 stays.

        Raises:
            UserError: for an id that `file_ids` does not name.
        """
        if not self.file_ids:
            return labels
        table = np.full(256, -1)
        table[IGNORE] = IGNORE
        for there, here in self.file_ids:
            table[there] = here
        wrong = [int(v) for v in np.unique(labels) if table[v] < 0]
        if wrong:
            raise UserError(f"{name} holds the ids {wrong[:8]}, which --ids does not name; add them, or ID=ignore")
        return table[labels].astype(np.uint8)

    def id_of(self, name: str) -> int:
        """The id of a class. Raises UserError for a name that is not in the vocabulary."""
        if name not in self.names:
            raise UserError(f"the class {name!r} is not in the vocabulary; there are: {', '.join(self.names)}")
        return self.names.index(name)


CITYSCAPES = Vocabulary(CLASSES, PALETTE)


def check_label_map(labels: np.ndarray, classes: int, name: str = "the label map") -> np.ndarray:
    """The map as uint8 [H, W] of class ids 0..classes-1 and 255; other types pass where every value is such an id.

    Raises:
        UserError: it has another shape, is empty, or holds other values.
    """
    check_arrays(labels=labels)
    if labels.ndim != 2 or 0 in labels.shape:
        raise UserError(
            f"{name} has the shape {list(labels.shape)} and type {labels.dtype}; expected uint8 [height, width], "
            "one class id per pixel"
        )
    labels = exact_ids(labels, name)
    wrong = [int(v) for v in np.unique(labels) if v >= classes and v != IGNORE]
    if wrong:
        raise UserError(
            f"{name} holds the class ids {wrong[:8]}, but there are {classes} classes: "
            f"use 0..{classes - 1}, and {IGNORE} for pixels to ignore"
        )
    return labels


def one_hot(labels: np.ndarray | Tensor, classes: int) -> Tensor:
    """Label maps [..., H, W] -> float32 [..., classes + 1, H, W] of zeros and ones; the last channel is "ignore".

    The input is left as it is (the reference writes the ignore channel's number over 255 in the caller's array).

    Raises:
        UserError: for values other than 0..classes-1 and 255, fractions too.
    """
    given = torch.as_tensor(labels)
    ids = given.long()
    if not torch.equal(ids.to(given.dtype), given):
        raise UserError(f"the label map holds {given.dtype} values that are no whole numbers; expected class ids")
    ids = ids.clone()
    ids[ids == IGNORE] = classes
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > classes):
        raise UserError(
            f"the label map holds the id {int(ids.max())}, but there are {classes} classes: "
            f"use 0..{classes - 1}, and {IGNORE} for pixels to ignore"
        )
    return F.one_hot(ids, classes + 1).movedim(-1, -3).float().contiguous()


def class_counts(labels: np.ndarray, classes: int) -> dict[int, int]:
    """Class id -> pixels, for the classes that are there, in order of their ids; 255 is left out."""
    counts = np.bincount(labels.reshape(-1), minlength=classes)[:classes]
    return {int(c): int(counts[c]) for c in np.flatnonzero(counts)}


def colour_picture(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map [H, W] -> RGB uint8 [H, W, 3]; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


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
