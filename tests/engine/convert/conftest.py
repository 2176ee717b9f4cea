"""Checkpoints of the published layout, made of tiny-sd and the golden heads."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from perception.backbones.ldm_names import unet_ldm_names, vae_ldm_names

# What is left of the schedule inside the reference's semantic checkpoint.
BUFFERS = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)


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
    head = load_file(goldens / "vpd" / f"{kind}_weights.safetensors")
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
