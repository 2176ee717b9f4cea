"""Measures how typical a picture is of the backbone's training pictures; see `perception.backbones.own_pictures`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.own_pictures import OwnPictures, fitted
from perception.backbones.spec import sample_noise
from perception.data.images import image_tensor
from perception.errors import UserError

UNLIKE = 0.01  # a picture is unlike the backbone's own where a smaller share of them is as strange
TIMESTEPS = (50, 200, 400)  # of the fit: from fine detail to what is left of a picture under much noise
_GREY = 0.01  # most colour of a grey picture
_LEAST = 100  # pictures of a fit
_FLAT = 1e-4  # least standard deviation of a latent channel that is told apart


@dataclass(frozen=True)
class Typicality:
    """How one picture looks to a backbone."""

    share: float  # of the backbone's own pictures that look as strange to it or stranger, in [0, 1]

    @property
    def unlike(self) -> bool:
        """Whether the picture is unlike anything that the backbone has seen."""
        return self.share < UNLIKE

    def record(self) -> dict[str, Any]:
        """Fields of a manifest line."""
        return {"typicality": round(self.share, 4), "unlike": self.unlike}


class TypicalityMeter:
    """Measures pictures one by one: what it says depends on the picture and the backbone alone."""

    def __init__(self, backbone: DiffusionBackbone, own: OwnPictures) -> None:
        self.backbone = backbone
        self.own = own

    @classmethod
    def of(cls, backbone: DiffusionBackbone | None) -> TypicalityMeter | None:
        """The meter of a backbone; None where it does not know its own pictures."""
        return None if backbone is None or backbone.own_pictures is None else cls(backbone, backbone.own_pictures)

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture as it is measured, [3, H, W] in [0, 1]: at one size, whatever the job works at."""
        return image_tensor(image.convert("RGB"), self.own.size)

    def __call__(self, pixels: Tensor) -> Typicality:
        """The typicality of one picture of `pixels`: an encoding, and a denoiser call of one row per timestep."""
        if self.backbone.vae is None and self.backbone.latent_channels == 1 and _colour(pixels) > _GREY:
            return Typicality(0.0)  # a model of grey pictures has seen none in colour
        errors, spreads = measured(self.backbone, pixels, self.own.timesteps)
        return Typicality(self.own.share(float(self.own.strangeness(errors[None], spreads[None]))))


def _colour(pixels: Tensor) -> float:
    """Mean over the pixels of the largest less the smallest of R, G and B."""
    return float((pixels.amax(0) - pixels.amin(0)).mean())


@torch.inference_mode()
def measured(backbone: DiffusionBackbone, pixels: Tensor, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log e [T] and log s [C] of one picture [3, H, W], float32 on the CPU."""
    with backbone.as_is():
        latent = backbone.encode(pixels[None])  # [1, C, h, w]
        noise = torch.stack([sample_noise(0, "", step, latent.shape[1:]) for step in timesteps]).to(latent.device)
        steps, clean = torch.tensor(timesteps), latent.expand(len(timesteps), -1, -1, -1)
        prediction = backbone.denoise(backbone.noise(clean, steps, noise), steps, backbone.condition([""]))
    estimate, truth = prediction.against(clean, noise)
    errors = (estimate - truth).square().mean((1, 2, 3)).log()
    return errors.cpu(), latent[0].std((1, 2)).clamp(min=_FLAT).log().cpu()


def fit_own_pictures(
    backbone: DiffusionBackbone,
    pictures: Iterable[Image.Image],  # like those of its training, better not the same ones
    described: str,  # in words
    size: tuple[int, int],  # height and width at which they are measured, pixels
    timesteps: Sequence[int] = TIMESTEPS,
) -> OwnPictures:
    """Measure a backbone's own pictures; `OwnPictures.write` puts the result beside the weights.

    Raises:
        UserError: fewer than 100 pictures, or a size that the backbone cannot take.
    """
    rows = [measured(backbone, image_tensor(picture.convert("RGB"), size), timesteps) for picture in pictures]
    if len(rows) < _LEAST:
        raise UserError(f"{len(rows)} pictures are too few to tell what is typical; give {_LEAST} or more")
    errors, spreads = (torch.stack(part) for part in zip(*rows, strict=True))
    return fitted(errors, spreads, identity=backbone.identity, pictures=described, size=size, timesteps=timesteps)
