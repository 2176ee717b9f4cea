"""Original DiT checkpoints as model folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from perception.backbones import load_backbone
from perception.convert.dit import convert_dit
from perception.errors import UserError


@pytest.fixture(scope="module")
def golden(goldens: Path) -> tuple[dict[str, Tensor], dict]:
    """The fixture of the reference's tiny DiT, which holds its weights."""
    path = goldens / "diffusion_classifier" / "dit.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["json"])


@pytest.fixture()
def file(golden, tmp_path: Path) -> Path:
    """Its checkpoint as the original repository saves it."""
    weights = {k.removeprefix("model."): v for k, v in golden[0].items() if k.startswith("model.")}
    torch.save(weights, tmp_path / "dit.pt")
    return tmp_path / "dit.pt"


def test_a_checkpoint_becomes_a_backbone(golden, file: Path, tiny_sd: Path, tmp_path: Path) -> None:
    tensors, config = golden
    names = [f"thing {i}, item {i}" for i in range(config["model"]["num_classes"])]
    convert_dit(file, tmp_path / "model", vae=tiny_sd, heads=config["model"]["num_heads"], names=names)
    backbone = load_backbone(tmp_path / "model", device="cpu")
    condition = backbone.condition([f"item {y}" for y in tensors["probe.y"].tolist()])
    prediction = backbone.denoise(tensors["probe.x"], tensors["probe.t"], condition)
    expected = tensors["probe.out"]
    found = torch.cat([prediction.raw, prediction.variance], 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert DiTPipeline.from_pretrained(tmp_path / "model").labels["thing 3"] == 3


def test_what_cannot_be_converted(golden, file: Path, tiny_sd: Path, tmp_path: Path) -> None:
    out, heads = tmp_path / "model", golden[1]["model"]["num_heads"]
    weights = torch.load(file, weights_only=True)
    with pytest.raises(UserError, match="2 class names were given for 6 classes"):
        convert_dit(file, out, vae=tiny_sd, heads=heads, names=["a", "b"])
    with pytest.raises(UserError, match="vae is a UNet2DConditionModel"):
        convert_dit(file, out, vae=tiny_sd / "unet", heads=heads)
    torch.save({k: v for k, v in weights.items() if k != "blocks.1.mlp.fc1.bias"}, file)
    with pytest.raises(UserError, match=r"missing for transformer_blocks.1.ff.net.0.proj.bias$"):
        convert_dit(file, out, vae=tiny_sd, heads=heads)
    torch.save(weights | {"t_embedder.mlp.0.bias": torch.ones(3)}, file)
    with pytest.raises(UserError, match=r"mis-shaped for .*linear_1.bias \(\[3\], expected \[48\]\); mis-shaped for"):
        convert_dit(file, out, vae=tiny_sd, heads=heads)
    assert not out.exists() and not list(tmp_path.glob(".*"))
    out.mkdir()
    with pytest.raises(UserError, match="exists already; choose another output folder"):
        convert_dit(file, out, vae=tiny_sd, heads=heads)
