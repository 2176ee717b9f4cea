"""What a trained `mini-dit` can do: accuracy of the Diffusion Classifier, and pictures that it draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from numpy.typing import NDArray
from torch import Tensor

from perception.data.fashion_mnist import CLASSES, SIDE
from recipes.mini.dit import arithmetic, class_errors, noise_schedule
from recipes.mini.training import seeded

T = 1000  # timesteps of the schedule


def even_timesteps(count: int) -> list[int]:
    """`count` evenly spaced timesteps: the middles of equal parts of 0..999 (Li et al. 2023, figure 4)."""
    return [(2 * number + 1) * T // (2 * count) for number in range(count)]


@torch.inference_mode()
def score_table(
    model: DiTTransformer2DModel,
    latents: Tensor,  # [N, 1, 28, 28]
    timesteps: list[int],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,  # called with the number of pictures done
) -> Tensor:
    """Errors [N, 10, len(timesteps)] of all classes; noise depends on (seed, picture) and all classes share it."""
    device = next(model.parameters()).device
    alphas, t = noise_schedule().alphas_cumprod.to(device), torch.tensor(timesteps, device=device)
    labels = torch.arange(len(CLASSES), device=device).expand(len(t), -1)  # [T, 10]
    rows = []
    for number, latent in enumerate(latents):
        noise = torch.randn((len(t), *latent.shape), generator=seeded(seed, number)).to(device)
        repeated = latent.to(device).expand(len(t), -1, -1, -1)  # [T, 1, 28, 28]
        errors = class_errors(model, repeated, labels, t, noise, alphas, torch.float32)  # [T, 10]
        rows.append(errors.T.cpu())
        progress(number + 1)
    return torch.stack(rows)


def accuracy_report(table: Tensor, labels: Tensor, timesteps: list[int]) -> dict[str, Any]:
    """Top-1 accuracy [%] of the smallest mean error: with every timestep, with each one alone, and per class."""
    chosen = table.mean(2).argmin(1)
    correct = (chosen == labels).float()
    alone = (table.argmin(1) == labels[:, None]).float().mean(0)
    return {
        "images": len(labels),
        "timesteps": len(timesteps),
        "accuracy": round(100 * correct.mean().item(), 2),
        "standard_error": round(100 * correct.std().item() / len(labels) ** 0.5, 2),
        "accuracy_of_one_timestep": {t: round(100 * alone[k].item(), 1) for k, t in enumerate(timesteps)},
        "accuracy_of_class": {
            name: round(100 * correct[labels == number].mean().item(), 1)
            for number, name in enumerate(CLASSES)
            if (labels == number).any()
        },
        "mean_error_of_true_class": round(table.mean(2)[torch.arange(len(labels)), labels].mean().item(), 5),
    }


@torch.inference_mode()
def sample_sheet(model: DiTTransformer2DModel, columns: int = 8, steps: int = 25, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures drawn with DDIM without guidance, one row per class: [10*28, columns*28] grey levels."""
    device, scheduler = next(model.parameters()).device, noise_schedule()
    scheduler.set_timesteps(steps)
    labels = torch.arange(len(CLASSES), device=device).repeat_interleave(columns)
    x = torch.randn((len(labels), 1, SIDE, SIDE), generator=seeded(seed, 0)).to(device)
    for t in scheduler.timesteps:
        with arithmetic(device, torch.float32):
            eps = model(x, timestep=t.to(device).expand(len(x)), class_labels=labels).sample
        x = scheduler.step(eps, t, x).prev_sample
    sheet = x.view(len(CLASSES), columns, SIDE, SIDE).permute(0, 2, 1, 3).reshape(len(CLASSES) * SIDE, columns * SIDE)
    return ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
