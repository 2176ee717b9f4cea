"""Windows: how a large latent is covered by views of the size the denoiser was trained at, step by step.

All lengths are latent cells. A schedule says which windows of which images are computed at a step, with the
embeddings of their control images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from perception.errors import UserError
from perception.generation.control import ControlledDenoiser
from perception.generation.options import Border, GenerationOptions

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


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class ImageWindow:
    """One window of one image of the batch."""

    image: int
    tile: Tile
    embeddings: list[Tensor]  # of its control images, [D, window height, window width] per network


class WindowSchedule:
    """The windows of every step. Those whose own cells are all held are left out: they would be overwritten."""

    def __init__(
        self,
        denoiser: ControlledDenoiser,
        options: GenerationOptions,
        images: Sequence[Tensor],  # control images [B, C, H, W], one tensor per control network
        free: Tensor,  # bool [B, h, w] on the CPU: cells that are not held
        *,
        base: bool,  # the first pass
        rows: int,  # windows per call of the conditioning embedding
    ) -> None:
        self._denoiser, self._images, self._free, self._rows = denoiser, images, free, rows
        self._options, self._base = options, base
        self._shifts = moves(options, base)
        self._whole = self._embed_whole() if self._shifts else []
        self._fixed = [] if self._shifts else self._embedded()

    def at(self, step: int) -> list[ImageWindow]:
        """The windows of a step, tile by tile."""
        if not self._shifts:
            return self._fixed
        return [
            ImageWindow(image, tile, [whole[image][(..., *tile.window.cells)] for whole in self._whole])
            for image, tile in self._wanted(step)
        ]

    def _wanted(self, step: int) -> list[tuple[int, Tile]]:
        height, width = self._free.shape[-2:]
        return wanted_tiles(tiles_of(self._options, height, width, base=self._base, step=step), self._free)

    def _embedded(self) -> list[ImageWindow]:
        """Each window embeds its own cut of the control images: zero padding at its border included."""
        found = []
        stride = self._denoiser.backbone.latent_stride
        for chunk in chunks(self._wanted(0), self._rows):
            pixels = [(image, tile.window.scaled(stride).cells) for image, tile in chunk]
            cuts = [torch.stack([part[image][(..., *cells)] for image, cells in pixels]) for part in self._images]
            rows = zip(*self._denoiser.embed(cuts), strict=True)
            found += [ImageWindow(b, tile, list(row)) for (b, tile), row in zip(chunk, rows, strict=True)]
        return found

    def _embed_whole(self) -> list[Tensor]:
        """Embeddings [B, D, h, w] of whole control images; moving windows cut theirs out, without padding inside."""
        parts = [self._denoiser.embed([part[b : b + 1] for part in self._images]) for b in range(len(self._free))]
        return [torch.cat(part) for part in zip(*parts, strict=True)]


def moves(options: GenerationOptions, base: bool) -> bool:
    """Whether the windows of a pass are others at every step."""
    return not base and options.layout == "shifted"


def tiles_of(options: GenerationOptions, height: int, width: int, *, base: bool, step: int) -> list[Tile]:
    """The tiles of one step of a pass over height x width latent cells; `base`: the first pass."""
    if moves(options, base):
        return shifted_tiles(height, width, options.window, step)
    if not base:
        return overlapping_tiles(height, width, options.window, options.stride, options.border)
    if options.tiled_base:
        return overlapping_tiles(height, width, options.window, options.window, options.border)
    return overlapping_tiles(height, width, max(height, width), max(height, width))


def wanted_tiles(tiles: Sequence[Tile], free: Tensor) -> list[tuple[int, Tile]]:
    """(image, tile) with at least one free cell of bool [B, h, w], tile by tile."""
    return [(image, tile) for tile in tiles for image in range(len(free)) if free[image][tile.own.cells].any()]


def chunks(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """Consecutive parts of at most `size` entries."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
