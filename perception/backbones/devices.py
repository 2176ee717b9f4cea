"""The device to work on, and small tensors that move between devices."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.errors import UserError


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for what a GPU still has to do: CUDA takes pageable memory at once.

    For tensors that nobody writes afterwards: pinned memory is read later.
    """
    return value.to(device, non_blocking=device.type == "cuda" and value.device.type == "cpu")


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the first of CUDA, MPS and CPU that is available.

    Raises:
        UserError: it is no device, or not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return torch.device(next(name for name, there in available.items() if there))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UserError(f"{device!r} is not a device; expected cpu, cuda, cuda:0, mps, ...") from None
    absent = not available.get(place.type, True)
    if absent or (place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count()):
        there = "device='cpu'" if absent else f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        raise UserError(f"the device {str(device)!r} is not available on this machine; use {there}")
    return place
