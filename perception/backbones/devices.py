"""Moving small tensors between devices while they work."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for what a GPU still has to do: CUDA takes pageable memory at once.

    For tensors that nobody writes afterwards: pinned memory is read later.
    """
    return value.to(device, non_blocking=device.type == "cuda" and value.device.type == "cpu")
