"""The autoencoder of `mini`: AutoencoderKL with factor 8 and 4 latent channels, trained on crops of the corpus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from perception.backbones.loading.build import randomize
from recipes.mini.training import AveragedWeights, learning_rate, load_checkpoint, save_checkpoint, seeded

WIDTHS = (16, 32, 64, 64)


@dataclass(frozen=True)
class AutoencoderTraining:
    """Options of the autoencoder training."""

    steps: int = 4000
    batch_size: int = 16
    crop: int = 64  # pixels; convolutions carry over to the full picture
    peak_lr: float = 2e-3
    kl_weight: float = 2e-7  # of the KL term summed over the latent, against the mean squared error per pixel
    seed: int = 0
    checkpoint_minutes: float = 3.0


def build_autoencoder() -> AutoencoderKL:
    """The untrained autoencoder, SD 1.x geometry with narrow blocks."""
    return AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=128,
    )


def train_autoencoder(
    images: NDArray[np.uint8],  # [N, S, S, 3]
    folder: Path,
    options: AutoencoderTraining,
    device: torch.device,
    report: Callable[[str], None] = print,
    start: AutoencoderKL | None = None,  # weights to start from; None: random
) -> AutoencoderKL:
    """Train until `options.steps`, resuming from `folder/autoencoder.pt`; returns the averaged weights."""
    model = start or randomize(build_autoencoder(), f"{options.seed}/autoencoder")
    model = model.float().to(device).train()
    average = AveragedWeights(model, decay=0.995)
    optimizer = torch.optim.AdamW(model.parameters(), options.peak_lr, weight_decay=1e-4)
    path, step, saved = folder / "autoencoder.pt", 0, time.monotonic()
    state = load_checkpoint(path)
    if state is not None:
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, average.updates = state["step"], state["step"]
    while step < options.steps:
        loss = _loss(model, random_crops(images, options, step).to(device), options, seeded(options.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.peak_lr)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step += 1
        if step % 100 == 0:
            report(f"autoencoder step {step}/{options.steps} loss {loss.item():.5f}")
        if step == options.steps or time.monotonic() - saved > 60 * options.checkpoint_minutes:
            state = {"model": model.state_dict(), "average": average.module.state_dict()}
            save_checkpoint(path, {**state, "optimizer": optimizer.state_dict(), "step": step})
            saved = time.monotonic()
    return average.module


def random_crops(images: NDArray[np.uint8], options: AutoencoderTraining, step: int) -> Tensor:
    """[B, 3, crop, crop] in [-1, 1]: random pictures, places and mirror images, a function of (seed, step)."""
    rng = np.random.default_rng([options.seed, step])
    crops = []
    for index in rng.integers(0, len(images), options.batch_size):
        top, left = rng.integers(0, images.shape[1] - options.crop + 1, 2)
        crop = images[index, top : top + options.crop, left : left + options.crop]
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def _loss(model: AutoencoderKL, images: Tensor, options: AutoencoderTraining, generator: torch.Generator) -> Tensor:
    """Mean squared error plus a little absolute error (sharper edges) plus the KL term (Kingma & Welling 2014)."""
    with torch.autocast(images.device.type, torch.bfloat16):
        posterior = model.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        decoded = model.decode(posterior.mean + posterior.std * noise).sample.float()
    kl = posterior.kl().float().mean()
    return F.mse_loss(decoded, images) + 0.1 * F.l1_loss(decoded, images) + options.kl_weight * kl


@torch.no_grad()
def encode_all(model: AutoencoderKL, images: NDArray[np.uint8], device: torch.device, batch_size: int = 32) -> Tensor:
    """Unscaled posterior means of all pictures, [N, 4, h, w] float16."""
    means = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.array(images[start : start + batch_size]))
        pixels = batch.permute(0, 3, 1, 2).float().contiguous().to(device) / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16):
            means.append(model.encode(pixels).latent_dist.mode().half().cpu())
    return torch.cat(means)


@torch.no_grad()
def reconstruction_psnr(
    model: AutoencoderKL, images: NDArray[np.uint8], device: torch.device, batch_size: int = 16
) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio [dB] of every picture after encoding (posterior mean) and decoding, [N]."""
    ratios = []
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(np.array(images[start : start + batch_size]))
        pixels = pixels.permute(0, 3, 1, 2).float().contiguous().to(device) / 127.5 - 1
        decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((decoded - pixels) / 2).square().mean((1, 2, 3))
        ratios.append((-10 * torch.log10(error)).double().cpu().numpy())
    return np.concatenate(ratios)
