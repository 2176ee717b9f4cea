"""A tiny generator: the trunk of tiny-sd as control network, with random weights where a new one has zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from perception.backbones import DiffusionBackbone
from perception.backbones.loading.build import randomize
from perception.generation import ControlledDenoiser, GenerationOptions, new_control, preset

SMALL = {"size": (64, 96), "steps": 2, "window": 8, "stride": 4, "held_area": 500.0}


def make_control(backbone: DiffusionBackbone, channels: int, seed: str) -> nn.Module:
    """A frozen control network that changes something."""
    control = new_control(backbone, channels)
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        randomize(part, seed)
    with torch.no_grad():
        for weight in control.controlnet_cond_embedding.parameters():
            weight.mul_(2.5)  # eight layers of fresh weights would let almost nothing through
    return control.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def control(tiny_backbone: DiffusionBackbone) -> nn.Module:
    """For the 19 classes of Cityscapes."""
    return make_control(tiny_backbone, 20, "labels")


@pytest.fixture(scope="session")
def depth_control(tiny_backbone: DiffusionBackbone) -> nn.Module:
    """For one channel of depth."""
    return make_control(tiny_backbone, 1, "depth")


@pytest.fixture(scope="session")
def denoiser(tiny_backbone: DiffusionBackbone, control: nn.Module) -> ControlledDenoiser:
    """The backbone with the label control."""
    return ControlledDenoiser(tiny_backbone, [control])


@pytest.fixture
def small() -> Callable[..., GenerationOptions]:
    """Function (preset, **changes) -> options of a 64 x 96 scene."""
    return lambda name="exact", **changes: preset(name, **{**SMALL, **changes})


@pytest.fixture
def street() -> np.ndarray:
    """A label map of 80 x 112 pixels: sky over building over road, a car, a pole and some ignored pixels."""
    labels = np.full((80, 112), 10, np.uint8)
    labels[25:50] = 2
    labels[50:] = 0
    labels[55:68, 30:60] = 13
    labels[20:60, 80:83] = 5
    labels[76:, :40] = 255
    return labels


@pytest.fixture
def stream() -> Callable[[int], torch.Generator]:
    """Function seed -> generator on the CPU."""
    return lambda seed: torch.Generator().manual_seed(seed)
