"""`mini-dit`: a class-conditional DiT on the pixels of Fashion-MNIST (Peebles, Xie 2023), and its denoising errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perception.backbones.loading.build import randomize
from perception.data.fashion_mnist import CLASSES, SIDE

NULL_CLASS = len(CLASSES)  # the row of the class embedding that stands for "no class"


def build_dit(
    width: int = 128,  # channels of a token
    layers: int = 6,
    heads: int = 4,
    patch: int = 7,  # pixels; 4 x 4 tokens
) -> DiTTransformer2DModel:
    """An untrained DiT on [B, 1, 28, 28] in [-1, 1] with ten classes and the null class, in eval mode.

    Eval mode also in training: in training mode diffusers drops labels in every block separately and draws them from
    the global generator. The training drops them itself.
    """
    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=1,
        out_channels=1,
        num_layers=layers,
        sample_size=SIDE,
        patch_size=patch,
        num_embeds_ada_norm=len(CLASSES),
    ).eval()


def initialize(model: DiTTransformer2DModel, seed: int) -> DiTTransformer2DModel:
    """Random weights in place; every block begins as the identity (adaLN-Zero, section 3.2), the output as zero."""
    randomize(model, f"{seed}/dit")
    with torch.no_grad():
        for block in model.transformer_blocks:
            nn.init.zeros_(block.norm1.linear.weight)
            nn.init.zeros_(block.norm1.linear.bias)
            block.norm1.emb.class_embedder.embedding_table.weight.mul_(10)  # std 0.2, as the embedding of the timestep
        nn.init.zeros_(model.proj_out_2.weight)
        nn.init.zeros_(model.proj_out_2.bias)
    return model


def noise_schedule() -> DDIMScheduler:
    """The schedule of DiT: 1000 steps of linear betas 1e-4 to 0.02, noise prediction."""
    return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


def latents_of(images: Tensor) -> Tensor:
    """Pixels as latents: uint8 [B, 28, 28] to 2 x - 1 [B, 1, 28, 28]."""
    return images[:, None].float() / 127.5 - 1


def add_noise(latents: Tensor, t: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; `alphas` holds abar of all timesteps, `t` is [B]."""
    alpha = alphas[t].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@contextmanager
def arithmetic(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Products in `dtype`; attention on the CPU without the fused kernel, which is slower with few tokens."""
    backends = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), sdpa_kernel(backends):
        yield


def class_errors(
    model: nn.Module,
    latents: Tensor,  # [B, 1, 28, 28]
    labels: Tensor,  # [B, K], the classes to compare
    t: Tensor,  # [B]
    noise: Tensor,  # [B, 1, 28, 28]
    alphas: Tensor,  # abar [1000]
    dtype: torch.dtype,  # of the products; errors are float32
) -> Tensor:
    """Mean squared noise-prediction error [B, K] of every class at the picture's one (t, eps)."""
    classes = labels.shape[1]
    x_t = add_noise(latents, t, noise, alphas).repeat_interleave(classes, 0)  # [B*K, 1, 28, 28]
    with arithmetic(latents.device, dtype):
        predicted = model(x_t, timestep=t.repeat_interleave(classes), class_labels=labels.flatten()).sample
    difference = predicted.float().unflatten(0, (-1, classes)) - noise[:, None]  # [B, K, 1, 28, 28]
    return difference.square().mean((2, 3, 4))
