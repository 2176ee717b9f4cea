"""Fixtures shared by all tests: where the goldens are, and the tiny backbone most tests run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perception.backbones import DiffusionBackbone, load_backbone


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Root of the golden fixtures: tests/goldens, or the folder named by PERCEPTION_GOLDENS."""
    return Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def tiny_sd(goldens: Path) -> Path:
    """A diffusers folder of Stable Diffusion 1.x layout with tiny random weights."""
    return goldens / "tiny-sd"


@pytest.fixture(scope="session")
def tiny_backbone(tiny_sd: Path) -> DiffusionBackbone:
    """tiny-sd in float32 on the CPU; shared by the session, so leave it as it is."""
    return load_backbone(tiny_sd, device="cpu")
