"""Moving small tensors between devices while they work."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on `device`, without waiting for what a GPU still has to do: CUDA copies pageable memory at once."""
    return value.to(device, dtype, non_blocking=device.type == "cuda" and value.device.type == "cpu")
