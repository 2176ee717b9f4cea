"""Fixtures of VPD networks over the tiny backbone, for the tests of encoders and of segmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from perception.backbones import DiffusionBackbone, load_backbone
from perception.conditioning import build_conditioning
from perception.encoders import VPD

NAMES = ("cat", "traffic_light", "sky")


@pytest.fixture(scope="session")
def make_vpd(tiny_sd: Path, tiny_backbone: DiffusionBackbone) -> Callable[..., VPD]:
    """Function (kind of conditioning, **options of VPD) -> a network; a trained denoiser is its own.

    Weights that start random or zero are drawn from a seed, so that every part matters and networks of equal options
    are equal.
    """

    def make(kind: str = "class_names", backbone: DiffusionBackbone | None = None, **options: Any) -> VPD:
        private = options.get("train") in ("denoiser", "lora")
        chosen = backbone or (load_backbone(tiny_sd, device="cpu") if private else tiny_backbone)
        conditioning = build_conditioning(kind, chosen, names=NAMES, length=16)  # type: ignore[arg-type]
        if kind == "class_id":
            options = {"map_strides": (), **options}
        network = VPD(chosen, conditioning, **options)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith(("adapter.", "lora.")):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return network

    return make


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Two images [2, 3, 64, 128] in [0, 1], not square."""
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def given() -> dict[str, list[Any]]:
    """What two images are told, by kind of conditioning."""
    return {"captions": ["a cat", "the man in red"], "class_id": [2, -1]}
