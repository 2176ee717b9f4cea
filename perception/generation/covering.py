"""Which windows of which images are computed at each sampling step, with the embeddings of their control images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from perception.generation.control import ControlledDenoiser
from perception.generation.options import GenerationOptions
from perception.generation.tiles import Tile, overlapping_tiles, shifted_tiles

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class WindowOfImage:
    """One window of one image of the batch."""

    image: int
    tile: Tile
    embeddings: list[Tensor]  # of its control images, [D, window height, window width] per network


class Covering:
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

    def at(self, step: int) -> list[WindowOfImage]:
        """The windows of a step, tile by tile."""
        if not self._shifts:
            return self._fixed
        return [
            WindowOfImage(image, tile, [whole[image][(..., *tile.window.cells)] for whole in self._whole])
            for image, tile in self._wanted(step)
        ]

    def _wanted(self, step: int) -> list[tuple[int, Tile]]:
        height, width = self._free.shape[-2:]
        return wanted_tiles(tiles_of(self._options, height, width, base=self._base, step=step), self._free)

    def _embedded(self) -> list[WindowOfImage]:
        """Each window embeds its own cut of the control images: zero padding at its border included."""
        found = []
        stride = self._denoiser.backbone.latent_stride
        for chunk in chunks(self._wanted(0), self._rows):
            pixels = [(image, tile.window.scaled(stride).cells) for image, tile in chunk]
            cuts = [torch.stack([part[image][(..., *cells)] for image, cells in pixels]) for part in self._images]
            rows = zip(*self._denoiser.embed(cuts), strict=True)
            found += [WindowOfImage(b, tile, list(row)) for (b, tile), row in zip(chunk, rows, strict=True)]
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
