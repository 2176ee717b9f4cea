"""What the two trainings of `mini` share: averaged weights, the learning-rate schedule, checkpoints."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Trained = TypeVar("Trained", bound=nn.Module)


class AveragedWeights(Generic[Trained]):
    """Exponential moving average of the parameters, decay min(`decay`, (1 + n) / (10 + n)) after n updates."""

    def __init__(self, module: Trained, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(module)
        self.module.eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the present weights."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for averaged, current in zip(self.module.parameters(), module.parameters(), strict=True):
            averaged.lerp_(current, weight)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200, cooldown: float = 0.25) -> float:
    """Linear warm-up, constant, linear cool-down to zero over the last `cooldown` share of `steps`."""
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, (steps - step) / max(1.0, cooldown * steps))
    return peak * min(rising, max(falling, 0.0))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically: the file is the old one or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The saved state, or None when training starts from scratch."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def seeded(seed: int, step: int) -> torch.Generator:
    """The generator of one training step: resuming draws what an uninterrupted run would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
