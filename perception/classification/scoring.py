"""Denoising errors: how badly the denoiser predicts the noise under the condition of a candidate."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.devices import to_device
from perception.backbones.prediction import Prediction
from perception.classification.dit_scores import DECISIONS, PosteriorTables, score_predictions
from perception.errors import UserError

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda prediction, target: (target - prediction).square(),
    "l1": lambda prediction, target: (target - prediction).abs(),
    "huber": lambda prediction, target: F.huber_loss(prediction, target, reduction="none", delta=1.0),
}
"""Elementwise losses; huber is 0.5 d^2 where |d| < 1, else |d| - 0.5."""

BOUNDS = {"vlb": DECISIONS["VLB"], "l2+vlb": DECISIONS["L2+VLB"]}
"""Scores of networks with a learned variance, such as DiT: the columns of `dit_scores` that are added."""


class DenoisingErrors(nn.Module):
    """e[s, k]: mean over channels and cells of loss(eps - eps_hat(x_t, t, c_k)) for sample s and its k-th candidate.

    x_t = alpha(t) x0 + sigma(t) eps. The target is the noise on variance preserving paths, whatever the checkpoint
    predicts, and the velocity eps - x0 on rectified flows: the error that the training weights evenly. "vlb" takes the
    term of the variational bound in its place, in bits per dimension, and "l2+vlb" adds both (Li et al. 2023, section
    5.3). Errors are reduced in float32, because candidates often differ by less than 1 % of the error. Differentiable
    with respect to latents and condition.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        loss: str = "l2",  # one of LOSSES or BOUNDS
        rows: int = 32,  # most rows (samples x candidates) of one denoiser call: bounds the memory, not the result
        recompute: bool = False,  # make a call again for the gradient, keeping no activations: `rows` bounds them
    ) -> None:
        super().__init__()
        if loss not in LOSSES | BOUNDS:
            raise UserError(f"unknown loss {loss!r}; choose one of {', '.join(LOSSES | BOUNDS)}")
        if rows < 1:
            raise UserError(f"{rows} rows per denoiser call is too few; give 1 or more")
        self.backbone = backbone
        self.loss = LOSSES.get(loss)
        self.columns = list(BOUNDS.get(loss, ()))
        self.tables = PosteriorTables.of(backbone) if self.columns else None
        self.rows = rows
        self.recompute = recompute
        self.calls = 0  # of the denoiser so far
        self.evaluations = 0  # rows of these calls

    def forward(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, condition: Condition, candidates: Tensor
    ) -> Tensor:
        """Errors [S, K] of each sample with each of its K candidates, int64 [S, K]; everything else as in `pairs`."""
        samples = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
        drawn = latents, noise, timesteps
        return self.pairs(*drawn, condition, samples, candidates.flatten()).view(candidates.shape)

    def pairs(
        self,
        latents: Tensor,  # clean, [S, C, h, w]
        noise: Tensor,  # [S, C, h, w]
        timesteps: Tensor,  # int64 [S], on the uniform grid: `DiffusionBackbone.spread` takes them to the training's
        condition: Condition,
        samples: Tensor,  # int64 [R], in order, every sample at least once
        candidates: Tensor,  # int64 [R], rows of `condition`
    ) -> Tensor:
        """Errors [R], float32, on the backbone's device. Keep the integers on the CPU: they are read there."""
        timesteps = self.backbone.spread(timesteps, latents)
        while True:
            try:
                return self._all(latents, noise, timesteps, condition, samples, candidates)
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise
                self.rows //= 2  # for good; the errors stay the same

    def _all(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        condition: Condition,
        samples: Tensor,
        candidates: Tensor,
    ) -> Tensor:
        parts = []
        for rows in self._cut(len(samples), self.rows):
            first, last = int(samples[rows][0]), int(samples[rows][-1])
            drawn = (each[first : last + 1] for each in (latents, noise, timesteps))
            parts.append(self._call(*drawn, condition, samples[rows] - first, candidates[rows]))
        return torch.cat(parts)

    def first_call(self, total: int) -> int:
        """How many of `total` rows the first denoiser call takes."""
        return self._cut(total, self.rows)[0].stop if total else 0

    def _cut(self, total: int, most: int) -> list[slice]:
        """As few slices as possible, of like length: two calls of 20 rows take less time than one of 30 and one of 10.

        Full ones first where the calls are compiled, which fills each up to a power of two.
        """
        if self.backbone.is_compiled:
            return [slice(start, min(start + most, total)) for start in range(0, total, most)]
        calls = math.ceil(total / most)
        return [slice(start, end) for start, end in pairwise(total * i // calls for i in range(calls + 1))]

    def _call(self, *arguments: Any) -> Tensor:
        if not self.recompute:
            return self._errors(*arguments)
        errors: Tensor = checkpoint(self._errors, *arguments, use_reentrant=False, preserve_rng_state=False)
        return errors

    def _errors(
        self, x0: Tensor, noise: Tensor, timesteps: Tensor, condition: Condition, samples: Tensor, candidates: Tensor
    ) -> Tensor:
        self.calls += 1
        self.evaluations += len(samples)
        x_t, rows = self.backbone.noise(x0, timesteps, noise), to_device(samples, x0.device)
        prediction = self.backbone.denoise(x_t[rows], timesteps[samples], condition[candidates])
        return self._measured(prediction, x0[rows], noise[rows], timesteps[samples])

    def _measured(self, prediction: Prediction, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The error of each row, [B]."""
        if self.loss is not None:
            estimate, truth = prediction.against(x0, noise)
            return self.loss(estimate, truth).flatten(1).mean(1)
        assert self.tables is not None
        return score_predictions(self.tables, prediction, x0, noise, timesteps).four[:, self.columns].sum(1)
