"""A draw from the autoencoder's posterior, where `DiffusionBackbone.encode` gives its mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone


def sample_latents(backbone: DiffusionBackbone, images: Tensor, noise: Tensor) -> Tensor:
    """mean + std noise, scaled as the denoiser expects it.

    Args:
        images: [B, 3, H, W] in [0, 1].
        noise: standard normal [B, C, h, w].
    Returns:
        Latents [B, C, h, w], float32. An autoencoder without posterior (AutoencoderTiny) gives its code.
    """
    vae: Any = backbone.vae
    weight = next(vae.parameters())
    pixels = (images * 2 - 1).to(weight.device, weight.dtype).contiguous()
    coded = vae.encode(pixels)
    if not hasattr(coded, "latent_dist"):
        return backbone.encode(images.to(weight.device))
    drawn = coded.latent_dist.mean.float() + coded.latent_dist.std.float() * noise.to(weight.device)
    # `unscaled` is affine per channel: invert it from its values at 0 and 1
    zero = backbone.unscaled(torch.zeros_like(drawn[:1, :, :1, :1]))
    one = backbone.unscaled(torch.ones_like(drawn[:1, :, :1, :1]))
    return (drawn - zero) / (one - zero)
