"""Test-time averaging of depth over square windows and mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError

DepthFunction = Callable[[Tensor, "Sequence[Any] | None"], Tensor]


def window_starts(length: int, side: int, count: int) -> tuple[list[int], list[int]]:
    """First pixels of windows of `side` along `length`: the regular ones, and one more that fills the end.

    `count` windows at i * floor((length - side) / (count - 1)); where these leave gaps, more windows are used. The
    second list holds `length - side` when the last columns are covered by none of them, else nothing.
    """
    if count < 1:
        raise UserError(f"{count} windows were asked for; at least 1 is needed")
    if length == side:
        return [0], []
    count = max(count, -(-length // side))  # no gap between neighbours
    step = (length - side) // (count - 1)
    starts = list(dict.fromkeys(i * step for i in range(count)))
    return starts, [] if starts[-1] + side == length else [length - side]


@torch.no_grad()
def shift_window_flip(
    predict: DepthFunction,  # (images [N, 3, S, S], given of N entries or None) -> depth [N, 1, S, S], e.g. a DepthNet
    images: Tensor,  # RGB [B, 3, H, W] in [0, 1]
    given: Sequence[Any] | None = None,  # what the network is told per image, e.g. room ids
    *,
    count: int = 2,  # windows along the longer side
    flip: bool = True,  # average with the mirror image
) -> Tensor:
    """Depth float32 [B, 1, H, W]: the mean over square windows of the shorter side, slid along the longer one.

    This is VPD's test on 480 x 640 pixels (two windows, each mirrored, one batch per image). Columns that the regular
    windows leave out, where the reference divides 0 by 0, come from one more window at the end.
    """
    check_tensors(images=images)
    side, length = sorted(images.shape[-2:])
    axis = images.dim() - 1 if images.shape[-1] == length else images.dim() - 2
    regular, filling = window_starts(length, side, count)
    starts = regular + filling
    windows = torch.cat([images.narrow(axis, start, side) for start in starts])  # [K*B, 3, S, S]
    told = None if given is None else list(given) * len(starts)
    depth = _mirror_mean(predict, windows, told) if flip else predict(windows, told)
    return _overlap_mean(depth.split(len(images)), starts, len(regular), length, axis)


@torch.no_grad()
def averaged_depth(
    predict: DepthFunction,
    images: Tensor,  # RGB [B, 3, H, W] in [0, 1]
    given: Sequence[Any] | None = None,
    *,
    windows: int | None = None,  # mean over so many squares of the shorter side; None or 0: the whole images at once
    flip: bool = False,  # mean with the mirror images
) -> Tensor:
    """Depth float32 [B, 1, H, W], with or without windows and mirror images."""
    if windows:
        return shift_window_flip(predict, images, given, count=windows, flip=flip)
    depth = predict(images, given)
    return (depth + predict(images.flip(-1), given).flip(-1)) / 2 if flip else depth


def _mirror_mean(predict: DepthFunction, windows: Tensor, given: list[Any] | None) -> Tensor:
    both = predict(torch.cat([windows, windows.flip(-1)]), None if given is None else given * 2)
    plain, mirrored = both.chunk(2)
    return (plain + mirrored.flip(-1)) / 2


def _overlap_mean(parts: Sequence[Tensor], starts: Sequence[int], regular: int, length: int, axis: int) -> Tensor:
    """Mean of the first `regular` windows wherever one of them is; the others fill the rest."""
    whole = list(parts[0].shape)
    side, whole[axis] = whole[axis], length
    total, covers = parts[0].new_zeros(whole), parts[0].new_zeros(whole)
    for number, (part, start) in enumerate(zip(parts, starts, strict=True)):
        count = covers.narrow(axis, start, side)
        new = torch.ones_like(part) if number < regular else (count == 0).to(part.dtype)
        total.narrow(axis, start, side).add_(part * new)
        count.add_(new)
    return total / covers
