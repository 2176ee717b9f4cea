"""FLOPs of a forward and of an early stop of Stable Diffusion 1.5 at 512 px (nothing is computed: meta device)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from perception.backbones import Condition
from perception.backbones.denoisers.unet import UNetDenoiser
from perception.backbones.taps import record

ROWS = 8


@pytest.fixture(scope="module")
def sd15() -> UNetDenoiser:
    """The architecture of Stable Diffusion 1.5 without storage."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
    unet.requires_grad_(False)
    return UNetDenoiser(unet)


@pytest.fixture(scope="module")
def forward(sd15: UNetDenoiser) -> Callable[[], object]:
    """One forward of eight rows."""
    with torch.device("meta"):
        x_t, time = torch.zeros(ROWS, 4, 64, 64), torch.zeros(ROWS, dtype=torch.long)
        told = Condition(torch.zeros(ROWS, 77, 768))
    return lambda: sd15(x_t, time, told, 8)


def gflop(function: Callable[[], object]) -> float:
    """GFLOP (2 x multiply-adds) per row."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / ROWS / 1e9


def test_full_forward(forward: Callable[[], object]) -> None:
    assert gflop(forward) == pytest.approx(803, rel=0.002)


@pytest.mark.parametrize(("tap", "share"), [("up_blocks.0", 0.36), ("up_blocks.1", 0.55), ("up_blocks.2", 0.76)])
def test_early_stop(sd15: UNetDenoiser, forward: Callable[[], object], tap: str, share: float) -> None:
    modules = {tap: sd15.tap_modules()[tap]}
    assert gflop(lambda: record(forward, modules, last=tap)) <= share * gflop(forward)
