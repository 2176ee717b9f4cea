"""Images to clean, scaled latents and back: `AutoencoderKL`, `AutoencoderTiny`, or pixels as they are."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from perception.checks import check_tensors
from perception.errors import UserError


class Codec(Protocol):
    """Between images and what the denoiser was trained on."""

    channels: int  # of a latent
    stride: int  # pixels per latent cell

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1] -> latents [B, C, H/stride, W/stride], float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images [B, 3, h*stride, w*stride], RGB in [0, 1], float32."""

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents of `encode` -> what the autoencoder itself gives, float32."""


class PixelCodec:
    """No autoencoder: latents are pixels, 2 x - 1 in [-1, 1].

    A denoiser of one channel gets the mean of R, G and B.
    """

    stride = 1

    def __init__(self, channels: int) -> None:  # 1: grey, 3: RGB
        self.channels = channels

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> pixels [B, 1 or 3, H, W] in [-1, 1], float32."""
        check_images(images, self.stride)
        pixels = images.float() * 2 - 1
        return (pixels.mean(1, keepdim=True) if self.channels == 1 else pixels).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 1 or 3, H, W] in [-1, 1] -> images [B, 3, H, W] in [0, 1]; grey is repeated."""
        check_latents(latents, self.channels)
        return (latents.float() / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1).contiguous()

    def unscaled(self, latents: Tensor) -> Tensor:
        """The pixels themselves."""
        return latents.float()


class LatentCodec:
    """The autoencoder with its scaling: latents are what the denoiser was trained on.

    z = (mean - shift_factor) * scaling_factor, or (mean - latents_mean) / latents_std * scaling_factor where the
    checkpoint has per-channel statistics. The posterior's mean is taken, never a sample. Raises ValueError for a config
    whose scaling cannot be undone.
    """

    def __init__(self, vae: nn.Module) -> None:
        self.vae: Any = vae
        config: Any = vae.config
        self.channels: int = config["latent_channels"]
        self.stride = 2 ** (len(config["block_out_channels"]) - 1)  # pixels per latent cell
        self._scale: float = config["scaling_factor"]
        self._shift: float = config.get("shift_factor") or 0.0
        self._mean, self._std = config.get("latents_mean"), config.get("latents_std")
        lists = [values for values in (self._mean, self._std) if values is not None]
        if not self._scale or any(len(values) != self.channels for values in lists) or not all(self._std or (1,)):
            raise ValueError(
                f"its latents cannot be scaled by scaling_factor {self._scale}, latents_mean {self._mean} and "
                f"latents_std {self._std}: expected {self.channels} numbers in each list, and no division by zero"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1] -> latents [B, C, H/stride, W/stride], float32."""
        check_images(images, self.stride)
        weight = next(self.vae.parameters())
        # contiguous NCHW: channels-last float32 input loses 4e-3 in diffusers' VAE on CPU
        pixels = (images * 2 - 1).to(device=weight.device, dtype=weight.dtype).contiguous()
        coded = self.vae.encode(pixels)
        z = (coded.latent_dist.mean if hasattr(coded, "latent_dist") else coded.latents).float()
        return ((z - self._center(z)) / self._spread(z) * self._scale).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images [B, 3, h*stride, w*stride], RGB in [0, 1], float32."""
        check_latents(latents, self.channels)
        weight = next(self.vae.parameters())
        z = self.unscaled(latents.to(weight.device))
        return (self.vae.decode(z.to(weight.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents of `encode` -> the posterior's mean as the autoencoder gives it, float32."""
        z = latents.float() / self._scale
        return z * self._spread(z) + self._center(z)

    def _center(self, z: Tensor) -> Tensor:
        return z.new_tensor(self._mean).view(1, -1, 1, 1) if self._mean is not None else z.new_tensor(self._shift)

    def _spread(self, z: Tensor) -> Tensor:
        return z.new_tensor(self._std).view(1, -1, 1, 1) if self._std is not None else z.new_tensor(1.0)


def check_images(images: Tensor, stride: int) -> None:
    """UserError unless `images` is [B, 3, H, W], floating, finite, in [0, 1], with sides that `stride` divides."""
    check_tensors(images=images)
    if images.dim() != 4 or images.shape[1] != 3:
        raise UserError(
            f"images have the shape {list(images.shape)}; expected [batch, 3, height, width] in RGB: "
            "add the batch dimension, move channels first, and repeat a grey channel three times"
        )
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}; expected floats in [0, 1]: divide 8-bit values by 255")
    if not len(images):
        raise UserError(f"images have the shape {list(images.shape)}; expected at least one image")
    height, width = images.shape[-2:]
    if height % stride or width % stride or 0 in (height, width):
        near = [max(stride, round(side / stride) * stride) for side in (height, width)]
        raise UserError(
            f"images of {height}x{width} pixels do not fit this autoencoder, whose sides are multiples of {stride}; "
            f"resize or pad them, for example to {near[0]}x{near[1]}"
        )
    low, high = (float(x) for x in torch.aminmax(images.detach()))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also false for NaN; room for the overshoot of a bicubic resize
        raise UserError(
            f"image values range from {low:.3g} to {high:.3g}; expected finite values in [0, 1]: "
            "divide 8-bit values by 255 and remove NaN"
        )


def check_latents(latents: Tensor, channels: int) -> None:
    """UserError unless `latents` is a floating [B, channels, h, w]."""
    check_tensors(latents=latents)
    if latents.dim() != 4 or latents.shape[1] != channels or not latents.is_floating_point() or 0 in latents.shape:
        raise UserError(
            f"latents have the shape {list(latents.shape)} and type {latents.dtype}; expected floats "
            f"[batch, {channels}, height, width], as backbone.encode returns them"
        )
