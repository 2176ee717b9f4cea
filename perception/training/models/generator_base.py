"""What both stages of the style swap share under mmengine: latents, noise, the loss of a batch, held-out losses.

Noise and timesteps are a function of (seed, iteration, process) in training and of (seed, picture) in validation, so a
resumed run is the uninterrupted one and two validations differ by the weights alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.shared import SharedBackbone
from perception.backbones.stored import StoredLatents
from perception.errors import UserError
from perception.generation.scenes import noise_stream, sample_latents
from perception.generation.training import (
    ControlTraining,
    SourceTraining,
    draw_timesteps,
    snr_weights,
    stratified_timesteps,
    training_target,
)
from perception.training.models.features import open_store
from perception.training.models.frozen import image_hashes, shared_backbone

Samples = Sequence[SegDataSample]
Timesteps = Literal["uniform", "stratified"]
Posterior = Literal["mean", "sample"]


class GeneratorModel(BaseModel):
    """What both stages share: latents, noise, the loss of a batch and that of held-out pictures.

    Raises:
        UserError: an unknown choice, or whatever `load_backbone` raises.
    """

    network: SourceTraining | ControlTraining

    def __init__(
        self,
        backbone: str,
        dtype: str,
        seed: int,
        timesteps: Timesteps,
        posterior: Posterior,
        store: str | None,
        draws: int,
        snr_bounds: Sequence[float] | None,
        data_licence: str,
        data_preprocessor: dict[str, Any] | None,
    ) -> None:
        super().__init__(data_preprocessor)
        for name, value, choices in (
            ("timesteps", timesteps, ("uniform", "stratified")),
            ("posterior", posterior, ("mean", "sample")),
        ):
            if value not in choices:
                raise UserError(f"model.{name} is {value!r}; expected one of {', '.join(choices)}")
        if draws < 1:
            raise UserError(f"model.draws is {draws}; expected at least 1 timestep per held-out picture")
        self._prior = SharedBackbone(shared_backbone(str(backbone), dtype, None, None))
        self._store = open_store(store)
        if snr_bounds is not None and not (len(snr_bounds) == 2 and 0 <= snr_bounds[0] <= snr_bounds[1]):
            raise UserError(f"model.snr_bounds is {snr_bounds}; expected two numbers, the smaller one first, or None")
        self.snr_bounds = None if snr_bounds is None else (float(snr_bounds[0]), float(snr_bounds[1]))
        self.seed, self.timesteps, self.posterior, self.draws = seed, timesteps, posterior, draws
        self.data_licence = data_licence

    @property
    def prior(self) -> DiffusionBackbone:
        """The backbone as it came."""
        return self._prior.backbone

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._prior.apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, inputs: Tensor, data_samples: Samples = (), mode: Literal["loss", "predict"] = "loss") -> Any:
        """Loss of pictures [B, 3, H, W] in [0, 1], or the data samples with `losses` (name -> mean over `draws`)."""
        if mode == "predict":
            return self._held_out(inputs, data_samples)
        stream = noise_stream(self.seed, f"train/{current_iteration()}/{get_rank()}")
        latents = self.latents(inputs, stream)
        noise = torch.randn(latents.shape, generator=stream).to(latents.device)
        draw = stratified_timesteps if self.timesteps == "stratified" else draw_timesteps
        t = draw(len(latents), self.prior.noise_path, stream)
        told = self.told(inputs, data_samples)
        weights = None if self.snr_bounds is None else snr_weights(self.prior.noise_path, t, self.snr_bounds)
        with attention_kernels(latents.device):
            return {"loss": self.network(latents, t, noise, *told, weights=weights)}

    @torch.no_grad()
    def latents(self, images: Tensor, stream: torch.Generator | None = None) -> Tensor:
        """Clean latents [B, C, h, w], float32: posterior means through the store, or (with a stream) as `posterior`."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            if self.posterior == "sample" and stream is not None:
                stride = self.prior.latent_stride
                cells = (self.prior.latent_channels, images.shape[-2] // stride, images.shape[-1] // stride)
                return sample_latents(self.prior, images, torch.randn((len(images), *cells), generator=stream))
            if self._store is None:
                return self.prior.encode(images)
            return StoredLatents(self.prior, self._store)(images, image_hashes(images))

    @abstractmethod
    def told(self, images: Tensor, samples: Samples) -> tuple[Any, ...]:
        """What `network` is told after (latents, t, noise): the condition, and perhaps control images."""

    @abstractmethod
    def predictors(self) -> dict[str, Any]:
        """Loss name -> function (latents, t, noise, *told) -> raw prediction, for validation."""

    @abstractmethod
    def trained(self) -> nn.Module:
        """The diffusers model that is trained."""

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Condition:
        """Encoded once per prompt, float32."""
        with torch.autocast(self.prior.device.type, enabled=False):
            return self.prior.condition(prompts, truncate=True).to(self.prior.device, torch.float32)

    def flush_store(self) -> None:
        """Write what the store still holds in memory."""
        if self._store is not None:
            self._store.flush()

    def _held_out(self, images: Tensor, samples: Samples) -> list[SegDataSample]:
        latents, told = self.latents(images), self.told(images, samples)
        rows = [self._fixed_noise(Path(sample.img_path).stem, latents.shape[1:]) for sample in samples]
        t, noise = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]).to(latents.device)
        for name, predict in self.predictors().items():
            errors = []
            for j in range(self.draws):
                target = training_target(self.prior.noise_path, latents, noise[:, j], t[:, j])
                with attention_kernels(latents.device):
                    raw = predict(latents, t[:, j], noise[:, j], *told).float()
                errors.append((raw - target).square().mean((1, 2, 3)))
            for sample, error in zip(samples, torch.stack(errors).mean(0).tolist(), strict=True):
                sample.losses = {**sample.get("losses", {}), name: error}
        return list(samples)

    def _fixed_noise(self, name: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Timesteps [draws], one per stratum of the schedule, and noise [draws, C, h, w] of a held-out picture."""
        stream = noise_stream(self.seed, f"held out/{name}")
        return (
            stratified_timesteps(self.draws, self.prior.noise_path, stream),
            torch.randn((self.draws, *shape), generator=stream),
        )


@contextmanager
def attention_kernels(device: torch.device) -> Iterator[None]:
    """On CPUs plain attention: with narrow heads the fused kernel makes a training step 1.1 to 1.7 times as long."""
    with sdpa_kernel([SDPBackend.MATH]) if device.type == "cpu" else nullcontext():
        yield


def current_iteration() -> int:
    """The iteration that mmengine's Runner is at; 0 outside a run."""
    return int(MessageHub.get_current_instance().runtime_info.get("iter", 0))
