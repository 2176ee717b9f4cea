"""Coverings of latents by windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from perception.errors import UserError
from perception.generation.windows import Tile, grid_shift, overlapping_tiles, shifted_tiles

SIZES = [(8, 8), (16, 16), (12, 20), (16, 37), (5, 30), (9, 9)]


def _counts(tiles: list[Tile], height: int, width: int) -> np.ndarray:
    counts = np.zeros((height, width), int)
    for tile in tiles:
        counts[tile.own.cells] += 1
    return counts


def _check_windows(tiles: list[Tile], height: int, width: int, window: int) -> None:
    for tile in tiles:
        seen, own = tile.window, tile.own
        assert (seen.bottom - seen.top, seen.right - seen.left) == (min(window, height), min(window, width))
        assert 0 <= seen.top <= own.top < own.bottom <= seen.bottom <= height
        assert 0 <= seen.left <= own.left < own.right <= seen.right <= width
        inner = np.zeros((seen.bottom - seen.top, seen.right - seen.left))[tile.inner]
        assert inner.shape == (own.bottom - own.top, own.right - own.left)


@pytest.mark.parametrize(("size", "stride"), itertools.product(SIZES, (1, 3, 8)))
def test_clamped_tiles_cover_everything(size: tuple[int, int], stride: int) -> None:
    tiles = overlapping_tiles(*size, 8, stride)
    _check_windows(tiles, *size, 8)
    assert _counts(tiles, *size).min() >= 1
    assert len({tile.window for tile in tiles}) == len(tiles)


@pytest.mark.parametrize(("size", "step"), itertools.product(SIZES, range(7)))
def test_shifted_tiles_are_a_partition(size: tuple[int, int], step: int) -> None:
    tiles = shifted_tiles(*size, 8, step)
    _check_windows(tiles, *size, 8)
    assert (_counts(tiles, *size) == 1).all()


def test_shifts_move_all_the_time() -> None:
    shifts = [grid_shift(64, step) for step in range(20)]
    assert len(set(shifts)) == 20 and shifts[0] == (0, 0)
    assert all(0 <= side < 64 for shift in shifts for side in shift)
    assert max(len(shifted_tiles(128, 128, 64, step)) for step in range(20)) == 9


def test_the_reference_drops_the_rest() -> None:
    counts = _counts(overlapping_tiles(16, 20, 16, 7, "drop"), 16, 20)
    assert (counts[:, :16] == 1).all() and not counts[:, 16:].any()
    assert overlapping_tiles(8, 20, 16, 7, "drop") == []


def test_wrong_grids() -> None:
    with pytest.raises(UserError, match="a stride of at most the window"):
        overlapping_tiles(16, 16, 8, 9)
    with pytest.raises(UserError, match="every 9 cells on 16 x 24 cells"):
        overlapping_tiles(16, 24, 8, 9)
