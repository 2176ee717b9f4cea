"""What the shortcuts save, counted in FLOPs of Stable Diffusion 1.5 at 512 px (nothing is computed: meta device)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from perception.backbones import Condition, sharing
from perception.backbones.tables import BatchRows, Samples
from perception.backbones.taps import record
from perception.backbones.unet_family import UNetDenoiser

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
    """One forward of eight candidates for one sample."""
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


def test_shared_prefix(sd15: UNetDenoiser, forward: Callable[[], object]) -> None:
    plain = gflop(forward)
    with sharing.shared_prefix(sd15.text_free_chains(same_pooled=False), Samples(ROWS)):
        saved = plain - gflop(forward)
    assert saved == pytest.approx(41.7 * (ROWS - 1) / ROWS, rel=0.01)  # the prefix costs 41.7, seven of eight are saved


def test_cached_text(sd15: UNetDenoiser, forward: Callable[[], object]) -> None:
    plain, rows = gflop(forward), BatchRows()
    rows.hold(tuple(f"prompt {i}" for i in range(ROWS)))
    with sharing.cached_text(sd15.text_attentions(), rows):
        assert gflop(forward) == pytest.approx(plain)
        assert plain - gflop(forward) == pytest.approx(2.95, rel=0.01)
