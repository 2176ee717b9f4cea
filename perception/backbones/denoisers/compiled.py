"""A denoiser behind torch.compile, for long jobs of many equal calls."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.base import Denoiser


class CompiledDenoiser:
    """Calls a denoiser through torch.compile on batches that are filled up to the next power of two.

    So a race, whose batches shrink with its candidates, compiles few shapes; each costs a minute or so, once per
    process. The weights are the denoiser's own.
    """

    def __init__(self, denoiser: Denoiser, **options: Any) -> None:  # options of torch.compile
        compiled: Any = torch.compile(denoiser.module, dynamic=False, **options)
        self._adapter = copy.copy(denoiser)
        self._adapter.module = compiled

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """As `Denoiser.__call__`."""
        rows = filled_up(len(x_t), x_t.device)
        return self._adapter(x_t[rows], model_time[rows], condition[rows], stride)[: len(x_t)]


def filled_up(rows: int, device: torch.device) -> Tensor:
    """Numbers of the rows of a batch, the last one again and again up to the next power of two."""
    return torch.arange(1 << (rows - 1).bit_length(), device=device).clamp(max=rows - 1)
