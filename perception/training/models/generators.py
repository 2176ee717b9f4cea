"""Both stages of DGInStyle's style swap under mmengine: the source-style denoiser, then control trained on it.

A batch is what every mmseg pipeline gives: pictures, and for the second stage label maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.shared import SharedBackbone
from perception.errors import UserError
from perception.generation import ControlledDenoiser, Vocabulary, load_control, new_control, with_denoiser
from perception.generation.labels import one_hot
from perception.generation.prompts import names_in
from perception.generation.training import ControlTraining, Parts, SourceTraining
from perception.training.config.classes import class_names
from perception.training.models.generator_base import GeneratorModel, Posterior, Samples, Timesteps
from perception.training.registry import MODELS


@MODELS.register_module()
class SourceGenerator(GeneratorModel):
    """Stage A: a copy of the denoiser is trained on all source pictures with an empty prompt; see `SourceTraining`."""

    network: SourceTraining

    def __init__(
        self,
        backbone: str = "mini",  # what load_backbone takes; the prior
        seed: int = 0,  # of noise and timesteps
        timesteps: Timesteps = "uniform",  # or stratified: one per equal share of the schedule in every batch
        posterior: Posterior = "mean",  # latents: the autoencoder's mean, stored; or a sample (the reference)
        store: str | None = None,  # folder of computed latents; the second epoch reads it
        draws: int = 2,  # timesteps per held-out picture
        snr_bounds: Sequence[float] | None = None,  # of the x_0 error's weight; None: the noise error as it is
        checkpointing: bool = False,  # blocks run again in the backward pass: less memory
        data_licence: str = "not stated",  # of the pictures, for the model card
        dtype: str = "float32",  # of the frozen autoencoder and text encoder
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            backbone, dtype, seed, timesteps, posterior, store, draws, snr_bounds, data_licence, data_preprocessor
        )
        self.network = SourceTraining(self.prior)
        if checkpointing:
            unet: Any = self.network.unet
            unet.enable_gradient_checkpointing()

    def told(self, images: Tensor, samples: Samples) -> tuple[Any, ...]:
        """The empty prompt."""
        return (self.condition([""]),)

    def predictors(self) -> dict[str, Any]:
        """`val_loss`."""
        return {"val_loss": self.network.predict}

    def trained(self) -> nn.Module:
        """The denoiser."""
        return self.network.unet


@MODELS.register_module()
class ControlGenerator(GeneratorModel):
    """Stage B: control by label maps is trained on the frozen source-style denoiser; see `ControlTraining`.

    Raises:
        UserError: a source denoiser or control network that does not fit backbone or classes.
    """

    network: ControlTraining

    def __init__(
        self,
        names: str | Sequence[str],  # the classes, or the data set that knows them
        backbone: str = "mini",  # what load_backbone takes; the prior
        source: str | None = None,  # folder of stage A; None: control is trained on the prior itself, without a swap
        control: str | None = None,  # folder of a control network to start from; None: a copy of the denoiser
        embedding_channels: Sequence[int] = (16, 32, 96, 256),  # of a new control network's conditioning embedding
        parts: Parts = "all",  # that are trained
        seed: int = 0,  # of noise and timesteps
        timesteps: Timesteps = "uniform",  # or stratified: one per equal share of the schedule in every batch
        posterior: Posterior = "mean",  # latents: the autoencoder's mean, stored; or a sample (the reference)
        store: str | None = None,  # folder of computed latents; the second epoch reads it
        draws: int = 2,  # timesteps per held-out picture
        snr_bounds: Sequence[float] | None = None,  # of the x_0 error's weight; None: the noise error as it is
        checkpointing: bool = False,  # blocks run again in the backward pass: less memory
        data_licence: str = "not stated",  # of the pictures, for the model card
        dtype: str = "float32",  # of the frozen parts
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            backbone, dtype, seed, timesteps, posterior, store, draws, snr_bounds, data_licence, data_preprocessor
        )
        self.vocabulary = Vocabulary(tuple(class_names(names)))
        self.source_folder = source
        base = self.prior if source is None else with_denoiser(self.prior, source)
        channels = self.vocabulary.channels
        if control is None:
            network = new_control(base, channels, tuple(embedding_channels))
        else:
            network = load_control(control, base).float().requires_grad_(True)
            if (found := network.config["conditioning_channels"]) != channels:
                raise UserError(
                    f"the control network {control} takes {found} channels, but {len(self.vocabulary)} classes and"
                    f' "ignore" make {channels}; start from a control network of these classes, or from none'
                )
        self._base = SharedBackbone(base)
        self.network = ControlTraining(base, network, parts)
        if checkpointing:
            network.enable_gradient_checkpointing()
            unet: Any = base.unet
            unet.enable_gradient_checkpointing()  # gradients reach the control through the frozen denoiser

    def told(self, images: Tensor, samples: Samples) -> tuple[Any, ...]:
        """The names of the classes in each label map, and the one-hot map."""
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in samples])  # [B, H, W]
        prompts = [names_in(row, self.vocabulary.names) for row in labels.cpu().numpy()]
        return self.condition(prompts), [one_hot(labels, len(self.vocabulary))]

    def predictors(self) -> dict[str, Any]:
        """`val_loss` on the denoiser it is trained on; `val_loss_swapped` with the prior in its place."""
        swapped = {} if self.source_folder is None else {"val_loss_swapped": self._predict_swapped}
        return {"val_loss": self.network.predict, **swapped}

    @property
    def base(self) -> DiffusionBackbone:
        """The backbone that control is trained on: with the source-style denoiser, or the prior."""
        return self._base.backbone

    def trained(self) -> nn.Module:
        """The control network."""
        return self.network.control

    def _predict_swapped(
        self, latents: Tensor, t: Tensor, noise: Tensor, condition: Condition, images: Sequence[Tensor]
    ) -> Tensor:
        """As `ControlTraining.predict`, on the prior."""
        denoiser = ControlledDenoiser(self.prior, [self.network.control])
        return denoiser(self.prior.noise(latents, t, noise), t, condition, denoiser.embed(images)).raw
