"""Maps of the denoising error: where in an image two candidates differ, averaged over timesteps."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.classification.noise import NoiseSource, SeededNoise
from perception.classification.scoring import LOSSES
from perception.classification.stopping.schedules import Exhaustive
from perception.data.pictures import overlay_labels
from perception.errors import UserError

_SHADES = 127  # per side of zero


class ErrorMaps(nn.Module):
    """m[c]: mean over samples and channels of loss(eps - eps_hat(x_t, t, c)) in every latent cell.

    The mean of m[c] over the cells is the error of candidate c on the same samples (spatial dumps of the reference's
    class-conditional script).
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        samples: int = 50,  # evenly spaced timesteps
        rows: int = 32,  # most rows per denoiser call
        loss: str = "l2",  # l2, l1 or huber
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UserError(f"error maps are not made of the loss {loss!r}; choose one of {', '.join(LOSSES)}")
        if rows < 1:
            raise UserError(f"{rows} rows per denoiser call is too few; give 1 or more")
        self.backbone = backbone
        self.rows = rows
        self.loss = LOSSES[loss]
        (self.samples,) = Exhaustive(samples).blocks(backbone.num_train_timesteps)

    @torch.inference_mode()
    def forward(
        self,
        latent: Tensor,  # clean, [C, h, w]
        condition: Condition,  # one row per candidate
        image_id: str,  # seeds the noise
        noise: NoiseSource | None = None,  # default: SeededNoise(0)
    ) -> Tensor:
        """Maps [candidates, h, w], float32 on the CPU."""
        draw = noise or SeededNoise()
        total = torch.zeros(len(condition), *latent.shape[-2:])
        for sample in self.samples:
            eps = draw(image_id, sample, tuple(latent.shape))[None].to(latent.device)
            timestep = self.backbone.spread(torch.tensor([sample.timestep]), latent[None])
            x_t = self.backbone.noise(latent[None], timestep, eps)
            total += self._one(x_t, latent[None], eps, timestep, condition)
        return total / len(self.samples)

    def _one(self, x_t: Tensor, x0: Tensor, eps: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        parts = []
        for rows in torch.arange(len(condition)).split(self.rows):
            repeated = x_t.expand(len(rows), -1, -1, -1)
            prediction = self.backbone.denoise(repeated, timestep, condition[rows])
            estimate, truth = prediction.against(x0, eps)
            parts.append(self.loss(estimate, truth).mean(1).cpu())  # [k, h, w]
        return torch.cat(parts)


def overlay_map(
    image: np.ndarray,  # uint8 [H, W, 3], RGB
    difference: Tensor,  # [h, w], any scale
    opacity: float = 0.6,  # of the strongest colours
) -> np.ndarray:
    """The map over its image, uint8 [H, W, 3]: red where it is positive, blue where negative, grey around zero.

    Colours saturate at the 99th percentile of the absolute values; the map is enlarged with bilinear interpolation.
    """
    size = (image.shape[0], image.shape[1])
    large = nn.functional.interpolate(difference[None, None].float(), size, mode="bilinear")[0, 0]  # [H, W]
    limit = float(difference.abs().float().quantile(0.99)) or 1.0
    shades = ((large / limit).clamp(-1, 1) * _SHADES + _SHADES).round().byte().numpy()  # 0 .. 254, 127: zero
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)  # colours belong to the map alone
    return overlay_labels(grey, shades, _palette(), opacity)


def overlay_png(image: Tensor, difference: Tensor, opacity: float = 0.6) -> bytes:
    """`overlay_map` for an image [3, H, W] in [0, 1], as a PNG file."""
    pixels = (255 * image.permute(1, 2, 0)).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(overlay_map(pixels, difference, opacity)).save(buffer, format="PNG")
    return buffer.getvalue()


def _palette() -> Sequence[Sequence[int]]:
    """255 colours from blue by light grey to red."""
    ends = np.array([[33, 102, 172], [235, 235, 235], [178, 24, 43]])  # of ColorBrewer's RdBu
    steps = np.linspace(0, 2, 2 * _SHADES + 1)
    return np.stack([np.interp(steps, range(3), ends[:, channel]) for channel in range(3)], axis=1).tolist()
