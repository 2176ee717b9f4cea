"""The path from data to noise, x_t = alpha(t) x0 + sigma(t) eps, and what a checkpoint predicts on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


class NoisePath(ABC):
    """Coefficients of x_t = alpha(t) x0 + sigma(t) eps, always float32 on CPU, whatever the dtype of the network.

    Timesteps are steps of the training schedule, `0 <= t < num_train_timesteps`, 0 the cleanest.
    """

    def __init__(self, prediction_type: str, num_train_timesteps: int) -> None:
        self.prediction_type = prediction_type
        self.num_train_timesteps = num_train_timesteps

    @abstractmethod
    def alpha(self, t: int | Tensor) -> Tensor:
        """Signal coefficient, float32, of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: int | Tensor) -> Tensor:
        """Noise coefficient, float32, of the shape of `t`."""

    @abstractmethod
    def model_time(self, t: int | Tensor) -> Tensor:
        """The network's time input for step `t`."""

    def spread(self, positions: Tensor, tokens: int | None = None) -> Tensor:
        """Positions 0..T-1 of a uniform grid -> timesteps as dense as the training schedule of the model has them.

        Args:
            positions: any shape.
            tokens: image tokens of the denoiser, for schedules that depend on the resolution; None: the largest
                resolution of the training.
        """
        return self.check(positions)

    def check(self, t: int | Tensor) -> Tensor:
        """Return `t` as a CPU tensor; UserError unless every entry lies in 0..num_train_timesteps-1."""
        if not isinstance(t, (int, float, list, tuple)):
            check_tensors(t=t)
        steps = torch.as_tensor(t).detach().cpu()
        if steps.numel() == 0 or not (steps.min() >= 0 and steps.max() < self.num_train_timesteps):  # also NaN
            raise UserError(
                f"timestep {_few(steps)} is outside this backbone's schedule: expected "
                f"0 to {self.num_train_timesteps - 1} (0 is the clean end); choose timesteps in that range"
            )
        return steps


class VariancePreservingPath(NoisePath):
    """DDPM family: alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t) (Ho et al. 2020, eq. 4)."""

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, betas: Tensor | None = None) -> None:
        super().__init__(prediction_type, len(alphas_cumprod))
        self.alphas_cumprod = alphas_cumprod.detach().float().cpu()  # [T]
        self.betas = None if betas is None else betas.detach().float().cpu()  # [T], as the scheduler has them

    def alpha(self, t: int | Tensor) -> Tensor:
        """sqrt(abar_t)."""
        return self.alphas_cumprod[self.check(t)].sqrt()

    def sigma(self, t: int | Tensor) -> Tensor:
        """sqrt(1 - abar_t)."""
        return (1 - self.alphas_cumprod[self.check(t)]).sqrt()

    def model_time(self, t: int | Tensor) -> Tensor:
        """The integer step itself."""
        return self.check(t)

    def check(self, t: int | Tensor) -> Tensor:
        """As in the base class, and whole numbers only: the chain is discrete."""
        steps = super().check(t)
        if steps.is_floating_point():
            raise UserError(f"timestep {_few(steps)} is not a whole number; this backbone's schedule is discrete")
        return steps


@dataclass(frozen=True)
class ResolutionShift:
    """Shift of a schedule that grows with the image: log(shift) is linear in the number of tokens (Flux)."""

    base_shift: float  # log(shift) at base_tokens
    max_shift: float  # log(shift) at max_tokens
    base_tokens: int  # 256 px for Flux
    max_tokens: int  # 1024 px for Flux

    def __call__(self, tokens: int | None) -> float:
        """The shift for `tokens` image tokens; None: for the largest resolution."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        tokens = self.max_tokens if tokens is None else tokens
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))


class FlowPath(NoisePath):
    """Rectified flow: x_t = (1 - s) x0 + s eps with s = t / T (Liu et al. 2022; Esser et al. 2024).

    The networks are trained and sampled on a schedule that is denser at high noise: the grid position u stands for
    s = shift u / (1 + (shift - 1) u) (Esser et al. 2024, eq. 23). `spread` goes from positions T u to timesteps T s.
    """

    def __init__(self, num_train_timesteps: int, shift: float | ResolutionShift = 1.0) -> None:
        super().__init__("flow_prediction", num_train_timesteps)
        self.shift = shift

    def spread(self, positions: Tensor, tokens: int | None = None) -> Tensor:
        """Grid positions T u -> timesteps T s, float32."""
        shift = self.shift(tokens) if isinstance(self.shift, ResolutionShift) else self.shift
        u = self.check(positions).float() / self.num_train_timesteps
        return self.num_train_timesteps * (shift * u / (1 + (shift - 1) * u))

    def alpha(self, t: int | Tensor) -> Tensor:
        """1 - s."""
        return 1 - self.sigma(t)

    def sigma(self, t: int | Tensor) -> Tensor:
        """s = t / T."""
        return self.check(t).float() / self.num_train_timesteps

    def model_time(self, t: int | Tensor) -> Tensor:
        """T s, as float32: flow networks take fractional times."""
        return self.check(t).float()


def noise_path(scheduler: Any) -> NoisePath:
    """The path a diffusers scheduler was configured with; its sampling steps and thresholds are ignored.

    Uses the scheduler's own `alphas_cumprod`, so that coefficients equal those of `scheduler.add_noise`.

    Raises:
        UserError: for a scheduler that is neither variance preserving nor rectified flow, or an unknown prediction.
    """
    config = scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if type(scheduler).__name__.startswith("FlowMatch") or kind == "flow_prediction":
        return FlowPath(config["num_train_timesteps"], _shift(config))
    if hasattr(scheduler, "alphas_cumprod"):
        if kind not in PREDICTION_TYPES[:3]:
            raise UserError(
                f"the scheduler's prediction_type is {kind!r}; expected one of {', '.join(PREDICTION_TYPES[:3])}; "
                "correct scheduler/scheduler_config.json"
            )
        alphas = scheduler.alphas_cumprod
        if not (alphas.min() >= 0 and alphas.max() <= 1 and scheduler.betas.isfinite().all()):  # also NaN
            raise UserError(
                f"the scheduler's signal coefficients run from {float(alphas[0]):.3g} to {float(alphas[-1]):.3g}; "
                "expected values from 1 down to 0: correct the betas in scheduler/scheduler_config.json"
            )
        return VariancePreservingPath(alphas, kind, scheduler.betas)
    raise UserError(
        f"the scheduler {type(scheduler).__name__} has no noise schedule this toolkit knows; expected a variance "
        "preserving (DDPM, DDIM, Euler, DPM-Solver, ...) or a flow-matching one"
    )


def _shift(config: Any) -> float | ResolutionShift:
    if not config.get("use_dynamic_shifting"):
        shift = config.get("shift") or config.get("flow_shift") or 1.0  # flow_shift: DPM-Solver, UniPC
        if not (isinstance(shift, (int, float)) and 0 < shift < math.inf):
            raise UserError(
                f"the scheduler's shift is {shift!r}; expected a positive number: correct "
                "scheduler/scheduler_config.json"
            )
        return float(shift)
    keys = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
    values = [config.get(key) for key in keys]
    numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    if config.get("time_shift_type", "exponential") != "exponential" or not numbers or values[2] >= values[3]:
        raise UserError(
            "the scheduler's dynamic shifting is not the exponential one with base_shift, max_shift and their sequence "
            "lengths, as Flux has it; correct scheduler/scheduler_config.json"
        )
    return ResolutionShift(*values)


def _few(steps: Tensor) -> str:
    """The first entries of `steps`, for an error message."""
    values = steps.flatten().tolist()
    return ", ".join(str(v) for v in values[:4]) + (", ..." if len(values) > 4 else "") if values else "(none)"
