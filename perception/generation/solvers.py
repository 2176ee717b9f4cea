"""Sampling steps on predicted noise, by diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception.backbones.noise_path import NoisePath, VariancePreservingPath
from perception.errors import UserError


class Solver:
    """One sampling run of a backbone's noise path; multistep solvers remember their last predictions.

    Stable Diffusion's spacing: "leading" with an offset of 1, so 20 steps are 951, 901, ..., 1. The last step of DDIM
    leads to abar[0] (`set_alpha_to_one` is False), that of the others to no noise at all.

    Raises:
        UserError: for a path that is not variance preserving.
    """

    def __init__(
        self,
        name: str,  # ddim | dpmsolver++ | unipc
        path: NoisePath,
        steps: int,
        skipped: int = 0,  # first steps left out (SDEdit, Meng et al. 2022)
    ) -> None:
        self._ends_clean = name != "ddim"
        self._scheduler = _scheduler(name, path)
        self._scheduler.set_timesteps(steps)
        if skipped and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(skipped)
        self.timesteps: list[int] = [int(t) for t in self._scheduler.timesteps[skipped:]]

    def step(self, eps: Tensor, index: int, x: Tensor) -> Tensor:
        """x at the next timestep from the predicted noise at step `index`; both [B, C, h, w] float32."""
        return self._scheduler.step(eps, self._scheduler.timesteps[index - len(self.timesteps)], x, return_dict=False)[
            0
        ]

    def ends_clean(self, index: int) -> bool:
        """Whether step `index` is the last one and leaves no noise."""
        return self._ends_clean and index + 1 == len(self.timesteps)

    def next_timestep(self, index: int) -> int:
        """The timestep that step `index` leads to; 0 after the last."""
        return self.timesteps[index + 1] if index + 1 < len(self.timesteps) else 0


def _scheduler(name: str, path: NoisePath) -> Any:
    import diffusers

    if not isinstance(path, VariancePreservingPath):
        raise UserError(
            "this backbone is no variance preserving model; scenes are generated with Stable Diffusion 1.x, 2.x or XL"
        )
    alphas = path.alphas_cumprod.double()  # [T]
    ratios = torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])  # 1 - beta
    shared = {
        "num_train_timesteps": len(alphas),
        "trained_betas": (1 - ratios).tolist(),
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    if name == "ddim":
        return diffusers.DDIMScheduler(**shared, clip_sample=False, set_alpha_to_one=False)
    if name == "dpmsolver++":
        return diffusers.DPMSolverMultistepScheduler(**shared, algorithm_type="dpmsolver++", solver_order=2)
    return diffusers.UniPCMultistepScheduler(**shared)
