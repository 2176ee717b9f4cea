"""How a large latent is covered by windows of the size the denoiser was trained at. All lengths are latent cells."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from perception.errors import UserError

Border = Literal["clamp", "drop"]
_R2 = (0.7548776662466927, 0.5698402909980532)  # 1 / p, 1 / p^2 with p^3 = p + 1 (Roberts 2018, the R2 sequence)


@dataclass(frozen=True)
class Region:
    """Cells [top:bottom, left:right]."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def cells(self) -> tuple[slice, slice]:
        """For indexing [..., h, w]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def scaled(self, factor: int) -> Region:
        """The same region in pixels, `factor` per cell."""
        return Region(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)


@dataclass(frozen=True)
class Tile:
    """What the denoiser sees, and the part of it whose prediction counts."""

    window: Region
    own: Region

    @property
    def inner(self) -> tuple[slice, slice]:
        """The own part inside the window, for indexing [..., window height, window width]."""
        top, left = self.window.top, self.window.left
        return slice(self.own.top - top, self.own.bottom - top), slice(self.own.left - left, self.own.right - left)


def overlapping_tiles(height: int, width: int, window: int, stride: int, border: Border = "clamp") -> list[Tile]:
    """Windows every `stride` cells, row by row (Bar-Tal et al. 2023); a side below the window is one window.

    Args:
        border: where the stride does not divide the rest, "clamp" adds a last window at the border; "drop" leaves the
            rest uncovered, as the reference does (a side below the window then has no window at all).
    """
    _check(height, width, window, stride)
    tall, wide = min(window, height), min(window, width)
    if border == "drop" and (tall, wide) != (window, window):
        return []
    tops, lefts = (_starts(side, part, stride, border) for side, part in ((height, tall), (width, wide)))
    regions = [Region(top, left, top + tall, left + wide) for top in tops for left in lefts]
    return [Tile(region, region) for region in regions]


def shifted_tiles(height: int, width: int, window: int, step: int) -> list[Tile]:
    """Disjoint regions on a grid that is shifted at every step (Frolov et al. 2024, without wrapping around).

    A region cut by the border is seen through a whole window moved inside. The shifts are a low-discrepancy sequence
    of the step, so they need no random stream.
    """
    _check(height, width, window, window)
    rows, columns = (
        _cuts(side, window, shift) for side, shift in zip((height, width), grid_shift(window, step), strict=True)
    )
    return [
        Tile(_moved_inside(own, height, width, window), own)
        for own in (Region(t, le, b, r) for t, b in pairwise(rows) for le, r in pairwise(columns))
    ]


def grid_shift(window: int, step: int) -> tuple[int, int]:
    """The shift of a disjoint grid at a sampling step, rows and columns, each in 0..window-1; (0, 0) at step 0."""
    return int(step * _R2[0] % 1 * window), int(step * _R2[1] % 1 * window)


def _starts(side: int, part: int, stride: int, border: Border) -> list[int]:
    starts = list(range(0, side - part + 1, stride))
    if border == "clamp" and starts[-1] != side - part:
        starts.append(side - part)
    return starts


def _cuts(side: int, window: int, shift: int) -> list[int]:
    if side <= window:
        return [0, side]
    return sorted({0, side, *range(shift, side, window)})


def _moved_inside(own: Region, height: int, width: int, window: int) -> Region:
    tall, wide = min(window, height), min(window, width)
    # a region at the far border keeps its far edge, every other one its near edge
    top = own.bottom - tall if own.bottom == height else own.top
    left = own.right - wide if own.right == width else own.left
    return Region(top, left, top + tall, left + wide)


def _check(height: int, width: int, window: int, stride: int) -> None:
    if min(height, width, window, stride) < 1 or stride > window:
        raise UserError(
            f"tiles of {window} cells every {stride} cells on {height} x {width} cells are not possible; expected "
            "positive numbers and a stride of at most the window"
        )
