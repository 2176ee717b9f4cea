"""Crops of a label map: around a pixel of a class, anywhere, or in the middle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perception.errors import UserError
from perception.generation.labels import Box

Below = Callable[[int], int]  # a uniform whole number in 0..n-1
Size = tuple[int, int]  # height, width in pixels


def below(rng: np.random.Generator) -> Below:
    """Uniform draws of a numpy generator."""
    return lambda count: int(rng.integers(0, count))


def class_box(
    labels: np.ndarray,  # class ids [H, W]
    label: int,  # the class to centre on
    size: Size,
    draw: Below,
    tries: int = 10,
    share: float = 0.01,  # of the box: enough pixels of the class to stop trying
) -> Box:
    """A box around a drawn pixel of the class, moved inside the map; the last one tried when none has enough of it.

    Raises:
        UserError: the class is not in the map, or the map is smaller than the box.
    """
    check_fits(labels.shape, size)
    rows, columns = np.nonzero(labels == label)
    if not len(rows):
        raise UserError(f"the label map has no pixel of class {label}; choose a class that it has")
    for _ in range(tries):
        pixel = draw(len(rows))
        box = _around(int(rows[pixel]), int(columns[pixel]), labels.shape, size)
        if np.count_nonzero(cut(labels, box) == label) > share * size[0] * size[1]:
            break
    return box


def random_box(shape: tuple[int, ...], size: Size, draw: Below) -> Box:
    """Anywhere, uniformly; the column is drawn first."""
    check_fits(shape, size)
    left = draw(shape[1] - size[1] + 1)
    top = draw(shape[0] - size[0] + 1)
    return left, top, left + size[1], top + size[0]


def centre_box(shape: tuple[int, ...], size: Size) -> Box:
    """The middle of the map."""
    check_fits(shape, size)
    top, left = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    return left, top, left + size[1], top + size[0]


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    """The part [y1:y2, x1:x2] of an array [H, W, ...]."""
    left, top, right, bottom = box
    return array[top:bottom, left:right]


def check_fits(shape: tuple[int, ...], size: Size) -> None:
    """UserError unless a crop of `size` fits into a map of `shape`."""
    if shape[0] < size[0] or shape[1] < size[1]:
        raise UserError(
            f"the label map is {shape[1]} x {shape[0]} pixels and a crop of {size[1]} x {size[0]} does not fit; "
            "choose a smaller crop, larger maps, or resize them (--resize 2)"
        )


def _around(row: int, column: int, shape: tuple[int, ...], size: Size) -> Box:
    top = min(max(0, row - size[0] // 2), shape[0] - size[0])
    left = min(max(0, column - size[1] // 2), shape[1] - size[1])
    return left, top, left + size[1], top + size[0]
