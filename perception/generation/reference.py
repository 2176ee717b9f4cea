"""The slow path: latent fusion window by window and image by image, stepping every window on its own.

Kept beside `fusion` because a test binds the two together, and as the baseline of the benchmark.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception.backbones.conditioning.condition import Condition
from perception.generation.control import ControlledDenoiser
from perception.generation.fusion import Guidance, HeldRegion
from perception.generation.options import GenerationOptions
from perception.generation.solvers import Solver
from perception.generation.windows import Tile, tiles_of


@torch.no_grad()
def reference_fusion(
    denoiser: ControlledDenoiser,
    options: GenerationOptions,  # solver "ddim", layout "overlap", told "both"
    noise: Tensor,  # [B, C, h, w]
    guidance: Guidance,
    held: HeldRegion | None = None,
) -> Tensor:
    """Clean latents [B, C, h, w] as the published sampler computes them (DGInStyle, section 3.3)."""
    path, size = denoiser.backbone.noise_path, (noise.shape[-2], noise.shape[-1])
    solver = Solver("ddim", path, options.steps)
    tiles = tiles_of(options, *size, base=held is None, step=0)
    latents = noise.to(denoiser.backbone.device).float()
    for index, timestep in enumerate(solver.timesteps):
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for tile in tiles:
            cells = (..., *tile.window.cells)
            for image in range(len(latents)):
                eps = reference_prediction(denoiser, options, latents, timestep, guidance, image, tile)
                value[image : image + 1][cells] += solver.step(eps, index, latents[image : image + 1][cells])
                count[image : image + 1][cells] += 1
        latents = torch.where(count > 0, value / count, value)
        if held is not None:
            latents = _held_put_back(denoiser, options, solver, index, latents, held)
    return latents


def reference_prediction(
    denoiser: ControlledDenoiser,
    options: GenerationOptions,
    latents: Tensor,
    timestep: int,
    guidance: Guidance,
    image: int,
    tile: Tile,
) -> Tensor:
    """Guided noise of one window, [1, C, window, window]; control image embedded anew."""
    backbone: Any = denoiser.backbone
    rows = guidance.condition[[image, len(latents) + image]]
    x_t = latents[image : image + 1][(..., *tile.window.cells)].repeat(2, 1, 1, 1).to(backbone.dtype)
    pixels = tile.window.scaled(backbone.latent_stride).cells
    cuts = [part[image : image + 1][(..., *pixels)].repeat(2, 1, 1, 1).to(x_t) for part in guidance.images]
    down, mid = _residuals(denoiser, x_t, timestep, rows, cuts)
    raw = backbone.unet(
        x_t, timestep, rows.hidden, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample
    plain, prompted = raw.float().chunk(2)
    return plain + options.guidance_scale * (prompted - plain)


def _residuals(
    denoiser: ControlledDenoiser, x_t: Tensor, timestep: int, rows: Condition, cuts: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    calls = zip(denoiser.controls, cuts, denoiser.scales, strict=True)
    outputs = [control(x_t, timestep, rows.hidden, cut, scale, return_dict=False) for control, cut, scale in calls]
    downs = [sum(parts[1:], parts[0]) for parts in zip(*(down for down, _ in outputs), strict=True)]
    mids = [mid for _, mid in outputs]
    return downs, sum(mids[1:], mids[0])


def _held_put_back(
    denoiser: ControlledDenoiser,
    options: GenerationOptions,
    solver: Solver,
    index: int,
    latents: Tensor,
    held: HeldRegion,
) -> Tensor:
    timestep = solver.timesteps[index]
    level = solver.next_timestep(index) if options.held_noise == "previous" else max(timestep - 1, 0)
    abar = denoiser.backbone.noise_path.alpha(level).square()
    noise = torch.stack([torch.randn(held.latents.shape[1:], generator=g) for g in held.generators])
    noised = abar.sqrt() * held.latents + (1 - abar).sqrt() * noise.to(held.latents)
    return noised * held.mask + latents * (1 - held.mask)
