"""Checkpoints of the published layout, made of tiny-sd and the golden heads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones.ldm_names import unet_ldm_names, vae_ldm_names

# What is left of the schedule inside the reference's semantic checkpoint.
BUFFERS = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)
# Options of the reference that no checkpoint tells, as published: the converter takes these.
PUBLISHED = {"attn_selector": "up_cross+down_cross", "max_attn_size": None}


@pytest.fixture
def golden(goldens):
    """Function kind -> (tensors, head weights, config) of a golden with the published options: seg, refer or depth."""
    return lambda kind: read_golden(goldens, kind)


def read_golden(goldens, kind):
    """The first golden of a task whose options are the published ones; the test is skipped where there is none."""
    paths = [p for p in sorted((goldens / "vpd").glob(f"{kind}*.safetensors")) if not p.stem.endswith("_weights")]
    assert paths, f"no {kind}*.safetensors in {goldens / 'vpd'}"
    published = PUBLISHED | {"use_attn": kind != "depth"}
    for path in paths:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["config"])
        if all(config.get(key, value) == value for key, value in published.items()):
            return load_file(path), load_file(path.with_name(f"{path.stem}_weights.safetensors")), config
    return pytest.skip(f"no {kind}*.safetensors of a network with the published options")


def reference_weights(goldens, backbone, kind):
    """The state dict of one task under the reference's names, with ldm's shapes; `kind` is seg, refer or depth."""
    prefix = "encoder." if kind == "depth" else ""
    unet, vae = backbone.unet.state_dict(), backbone.vae.state_dict()
    names = unet_ldm_names(unet)
    weights = {f"{prefix}unet.unet.diffusion_model.{names[name]}": value for name, value in unet.items()}
    for name, ldm in vae_ldm_names(vae).items():
        is_linear = vae[name].ndim == 2
        weights[f"{prefix}encoder_vq.{ldm}"] = vae[name][..., None, None] if is_linear else vae[name]
    if kind == "depth":
        weights = {name: value for name, value in weights.items() if ".diffusion_model.out." not in name}
    if kind == "seg":
        weights |= {f"sd_model.{name}": torch.zeros(1000) for name in BUFFERS}
    _, head, _ = read_golden(goldens, kind)
    return weights | {name: value.float() if value.is_floating_point() else value for name, value in head.items()}


def container(kind, weights):
    """The file content around a state dict, as the reference's scripts save it."""
    if kind == "seg":
        return {"meta": {"mmseg_version": "0.30.0"}, "state_dict": weights, "optimizer": {}}
    if kind == "depth":
        return {"model": {f"module.{name}": value for name, value in weights.items()}}
    return {"model": weights, "epoch": 39}


@pytest.fixture
def checkpoint(goldens, tiny_backbone, tmp_path):
    """Function (kind, change) -> path of a checkpoint file; `change` edits the state dict in place."""

    def make(kind, change=lambda weights: None):
        weights = reference_weights(goldens, tiny_backbone, kind)
        change(weights)
        path = tmp_path / f"{kind}.pth"
        torch.save(container(kind, weights), path)
        return path

    return make
