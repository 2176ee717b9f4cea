"""Multi-resolution latent fusion (DGInStyle, section 3.3): tiled denoising with control, on held large components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.backbones.conditioning.condition import Condition
from perception.backbones.devices import to_device
from perception.generation.control import ControlledDenoiser
from perception.generation.options import GenerationOptions
from perception.generation.solvers import Solver
from perception.generation.windows import ImageWindow, WindowSchedule, chunks

StepCallback = Callable[[int, Tensor, Tensor], None]  # step, latents before and after the held region is put back


@dataclass(frozen=True)
class HeldRegion:
    """Where the result follows an earlier pass, and what it was."""

    latents: Tensor  # [B, C, h, w], clean, scaled
    mask: Tensor  # [B, 1, h, w], 1: held
    generators: Sequence[torch.Generator]  # on the CPU, one per image: the noise of every step


@dataclass(frozen=True)
class Guidance:
    """Condition and control images of a batch of B images."""

    condition: Condition  # [2B]: negative prompts, then prompts
    images: Sequence[Tensor]  # control images [B, C, 8h, 8w], one tensor per control network


class LatentFusion:
    """Denoises latents of any size in windows, all windows, images and both halves of guidance batched together.

    Averaging predicted noise and stepping once equals averaging the stepped windows: overlapping windows share x_t and
    a DDIM step without added noise is linear in (x_t, eps). It also keeps the history of multistep solvers whole.
    """

    def __init__(
        self,
        denoiser: ControlledDenoiser,
        options: GenerationOptions,
        rows: int = 16,  # per call of the denoiser
    ) -> None:
        self.denoiser = denoiser
        self.options = options
        self.rows = rows

    @torch.no_grad()
    def __call__(
        self,
        noise: Tensor,  # [B, C, h, w] standard normal, or noised latents where steps are skipped
        guidance: Guidance,
        held: HeldRegion | None = None,
        skipped: int = 0,  # first steps left out
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Clean latents [B, C, h, w], float32.

        The first pass (`held` None) is one window, unless `tiled_base` asks for disjoint ones.
        """
        options = self.options
        solver = Solver(options.solver, self.denoiser.backbone.noise_path, options.steps, skipped)
        latents = noise.to(self.denoiser.backbone.device).float()
        free = torch.ones_like(noise[:, 0], dtype=torch.bool) if held is None else held.mask[:, 0] != 1
        windows = WindowSchedule(self.denoiser, options, guidance.images, free.cpu(), base=held is None, rows=self.rows)
        for index, timestep in enumerate(solver.timesteps):
            eps, count = self._average(latents, timestep, guidance, windows.at(index), options.guided(index + skipped))
            fused = solver.step(eps, index, latents)
            if options.border == "drop":  # the reference's value / count is 0 where no window is
                fused = fused * (count > 0)
            latents = fused
            if held is not None:
                latents = self._put_back(fused, held, self._held_level(solver, index))
            if on_step is not None:
                on_step(index, fused, latents)
        return latents

    def _average(
        self, latents: Tensor, timestep: int, guidance: Guidance, items: Sequence[ImageWindow], guided: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean predicted noise over the windows of every cell [B, C, h, w], and their number [B, 1, h, w]."""
        total = torch.zeros_like(latents)
        count = torch.zeros_like(latents[:, :1])
        for chunk in chunks(items, max(1, self.rows // (2 if guided else 1))):
            eps = self._predict(latents, timestep, guidance, chunk, guided)
            for item, prediction in zip(chunk, eps, strict=True):
                cells = item.tile.own.cells
                total[item.image][(..., *cells)] += prediction[(..., *item.tile.inner)]
                count[item.image][(..., *cells)] += 1
        return total / count.clamp(min=1), count

    def _predict(
        self, latents: Tensor, timestep: int, guidance: Guidance, items: Sequence[ImageWindow], guided: bool
    ) -> Tensor:
        """Guided noise prediction of some windows, [n, C, window, window]."""
        x_t = torch.stack([latents[item.image][(..., *item.tile.window.cells)] for item in items])
        embeddings = [torch.stack(parts) for parts in zip(*(item.embeddings for item in items), strict=True)]
        rows = [len(latents) + item.image for item in items]
        if not guided:
            return self.denoiser(x_t, timestep, guidance.condition[rows], embeddings).eps
        both = guidance.condition[[item.image for item in items] + rows]
        plain, prompted = self.denoiser(torch.cat([x_t, x_t]), timestep, both, embeddings, guided=True).eps.chunk(2)
        return plain + self.options.guidance_scale * (prompted - plain)  # Ho & Salimans 2022, eq. 6

    def _held_level(self, solver: Solver, index: int) -> int | None:
        """The timestep that the held region is noised to behind a step; None: not at all."""
        if solver.ends_clean(index):
            return None
        if self.options.held_noise == "previous":
            return solver.next_timestep(index)
        return max(solver.timesteps[index] - 1, 0)

    def _put_back(self, latents: Tensor, held: HeldRegion, level: int | None) -> Tensor:
        shape = held.latents.shape[1:]
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in held.generators])
        noised = held.latents.to(latents.device)
        if level is not None:
            noised = self.denoiser.backbone.noise(noised, level, to_device(drawn, latents.device))
        mask = held.mask.to(latents.device)
        return noised * mask + latents * (1 - mask)
