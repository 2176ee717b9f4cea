"""The two trainings of the style swap as losses: the denoiser on the source images, then control on that denoiser."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.denoisers.unet import UNetDenoiser
from perception.backbones.noise_path import NoisePath
from perception.backbones.shared import SharedBackbone
from perception.errors import UserError
from perception.generation.control import ControlledDenoiser

Parts = Literal["all", "control", "control+first", "control+middle"]
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": ("",),
        "control": ("controlnet_",),  # conditioning embedding and the projections of the residuals
        "control+first": ("controlnet_", "down_blocks.0."),
        "control+middle": ("controlnet_", "mid_block."),
    }
)


def training_target(path: NoisePath, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network should say at x_t: eps, v = alpha eps - sigma x0, or x0, as the checkpoint predicts it."""
    if path.prediction_type == "epsilon":
        return noise
    if path.prediction_type == "sample":
        return latents
    steps = t.reshape(-1, 1, 1, 1)
    return path.alpha(steps).to(noise) * noise - path.sigma(steps).to(noise) * latents


def weighted_error(prediction: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared error [] of [B, C, h, w], every row times its weight; None: 1."""
    if weights is None:
        return F.mse_loss(prediction.float(), target)
    return (weights.to(target) * (prediction.float() - target).square().mean((1, 2, 3))).mean()


def snr_weights(path: NoisePath, t: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Weights [B] that make a row's x_0 error count by its signal-to-noise ratio within `bounds`.

    The upper bound is gamma of min-SNR weighting (Hang et al. 2023); the lower one (1 in Salimans & Ho 2022, equation
    9) makes high noise count, where the layout is decided and the noise error hardly sees it.
    """
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    per_x0 = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return snr.clamp(*bounds) / per_x0[path.prediction_type]


class SourceTraining(nn.Module):
    """Stage A: the denoiser alone is trained on source images with an empty prompt (DGInStyle, section 3.1).

    `unet` is a trainable float32 copy; `with_denoiser(backbone, training.unet)` makes a backbone of it.
    """

    def __init__(self, backbone: DiffusionBackbone) -> None:  # the prior; it stays as it is
        super().__init__()
        self.unet = copy.deepcopy(backbone.unet).float().requires_grad_(True).train()
        self._shared = SharedBackbone(backbone)
        self._denoiser = UNetDenoiser(self.unet)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._shared.apply(fn)
        return super()._apply(fn, recurse)

    def predict(self, latents: Tensor, t: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """The raw prediction [B, C, h, w] at x_t; `t` [B], `condition` 1 or B rows."""
        backbone = self._shared.backbone
        x_t = backbone.noise(latents, t, noise)
        time = backbone.noise_path.model_time(t).to(x_t.device)
        return self._denoiser(x_t, time, condition.expand(len(x_t)), backbone.latent_stride)

    def forward(
        self, latents: Tensor, t: Tensor, noise: Tensor, condition: Condition, weights: Tensor | None = None
    ) -> Tensor:
        """mean |prediction - target|^2 over everything, rows by `weights` [B]; `latents` are clean [B, C, h, w]."""
        target = training_target(self._shared.backbone.noise_path, latents, noise, t)
        return weighted_error(self.predict(latents, t, noise, condition), target, weights)


class ControlTraining(nn.Module):
    """Stage B: a control network is trained on the frozen source-style denoiser (DGInStyle, section 3.1).

    Raises:
        UserError: for unknown `parts`, or a control network that does not fit.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,  # with the source-style denoiser, frozen
        control: nn.Module,  # a diffusers ControlNetModel, for example of `new_control(backbone, ...)`
        parts: Parts = "all",  # that are trained
    ) -> None:
        super().__init__()
        if parts not in _PARTS:
            raise UserError(f"parts is {parts!r}; expected one of {', '.join(_PARTS)}")
        self.control: Any = control
        for name, parameter in control.named_parameters():
            parameter.requires_grad_(name.startswith(_PARTS[parts]))
        self._shared = SharedBackbone(backbone)
        self._denoiser = ControlledDenoiser(backbone, [control])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._shared.apply(fn)
        return super()._apply(fn, recurse)

    def predict(
        self, latents: Tensor, t: Tensor, noise: Tensor, condition: Condition, images: Sequence[Tensor]
    ) -> Tensor:
        """The raw prediction [B, C, h, w] at x_t, given the control images [B, K, 8h, 8w]."""
        x_t = self._shared.backbone.noise(latents, t, noise)
        return self._denoiser(x_t, t, condition.expand(len(x_t)), self._denoiser.embed(images)).raw

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        noise: Tensor,
        condition: Condition,
        images: Sequence[Tensor],
        weights: Tensor | None = None,
    ) -> Tensor:
        """mean |prediction - target|^2 over everything, rows by `weights` [B]; `latents` are clean [B, C, h, w]."""
        target = training_target(self._shared.backbone.noise_path, latents, noise, t)
        return weighted_error(self.predict(latents, t, noise, condition, images), target, weights)


def draw_timesteps(count: int, path: NoisePath, generator: torch.Generator) -> Tensor:
    """Uniform timesteps [count] of the whole schedule, int64 on the CPU."""
    return torch.randint(0, path.num_train_timesteps, (count,), generator=generator)


def stratified_timesteps(count: int, path: NoisePath, generator: torch.Generator) -> Tensor:
    """As `draw_timesteps`, one in each of `count` equal shares of the schedule, in random order: less variance."""
    shares = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return (shares / count * path.num_train_timesteps).long().clamp(max=path.num_train_timesteps - 1)
