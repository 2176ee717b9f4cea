"""How many scenes `perception generate` renders together unless it is told."""

from __future__ import annotations

import argparse
import os

import torch

from perception.backbones.devices import pick_device
from perception.backbones.shipped import SHIPPED
from perception.generation.options import GenerationOptions
from perception.generation.windows import overlapping_tiles

MOST = 4
_CHANNELS = 320  # of a control embedding in Stable Diffusion 1.x, 2.x and XL
_CELL = 8  # pixels


def scenes_together(args: argparse.Namespace, options: GenerationOptions) -> int:
    """The batch size of parsed arguments, or the one that suits model, device and size.

    It depends on the machine and not on what is free at the moment: the same command makes the same batches, so that a
    resumed job writes the same bytes. Large models on a CPU gain nothing, and a scene of theirs takes minutes.
    """
    if args.batch_size is not None:
        return int(args.batch_size)
    device = pick_device(args.device)
    if device.type == "cpu" and args.backbone not in SHIPPED:
        return 1
    return max(1, min(MOST, _memory(device) // 8 // scene_bytes(options)))


def scene_bytes(options: GenerationOptions) -> int:
    """What a scene keeps for all of its steps, in float32: above all the control embedding of every window."""
    height, width = (side // _CELL for side in options.large_size)
    side = min(options.window, height, width)
    windows = len(overlapping_tiles(height, width, side, min(options.stride, side), options.border))
    return 4 * _CHANNELS * max(windows * side**2, height * width)


def _memory(device: torch.device) -> int:
    """All memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
