"""What DiffusionBackbone knows of a denoiser: the interface that one adapter per family implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from perception.backbones.conditioning.condition import Condition
from perception.backbones.spec import TapKind


class Denoiser(Protocol):
    """The adapter of one denoiser family. DiffusionBackbone knows denoisers through this alone.

    A family (UNet, DiT, PixArt, SD3, Flux) is one such class: it owns the calling convention and the taps.
    """

    module: nn.Module  # the diffusers model
    latent_channels: int
    training_size: tuple[int, int] | None  # height and width of the latents of the training, in cells; None: not known
    text_width: int  # channels of the text tokens that it reads; 0: it reads no text

    def __call__(self, x_t: Tensor, model_time: Tensor, condition: Condition, stride: int) -> Tensor:
        """Raw prediction [B, C, h, w] for noised latents [B, C, h, w] at times [B]; `stride`: pixels per cell.

        [B, 2C, h, w] where the network also predicts its variance: the prediction, then the variance.
        """

    def skeleton(self) -> Denoiser:
        """The same architecture without storage, on the meta device, for deriving shapes."""

    def probe(self, tokens: int) -> tuple[Tensor, Tensor, Condition]:
        """Inputs for one dry forward on the device of the module: latent, time, condition with `tokens` tokens."""

    def check_size(self, height: int, width: int) -> None:
        """UserError unless the denoiser takes latents of height x width cells."""

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens that latents of height x width cells make at the input of the denoiser."""

    def tap_modules(self) -> Mapping[str, tuple[nn.Module, TapKind]]:
        """Every tappable module by its diffusers path."""

    def feature_of(self, output: Any) -> Tensor:
        """The image's part of what a block returns: [B, C, h, w], or tokens [B, h*w, C] in raster order."""

    def final_modules(self) -> list[nn.Module]:
        """Modules behind the last tap: they make the prediction and no feature."""

    def query_modules(self) -> list[nn.Module]:
        """Modules that act on the weights of the cross-attentions alone: without effect where the text is one token."""


def height_and_width(sample_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """The `sample_size` of a diffusers config as `Denoiser.training_size`."""
    if sample_size is None:
        return None
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return height, width
