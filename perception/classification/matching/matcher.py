"""Image-caption matching by denoising error: every caption with every image, on the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.checks import check_tensors
from perception.classification.noise import NoiseSource, SeededNoise
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.schedules import Exhaustive, TimestepNoise
from perception.errors import UserError

SHARED = "shared"  # the id under which every image draws its noise: images are compared with each other
_CHUNK = 64  # samples whose noise is in memory at a time


class ImageCaptionMatcher(nn.Module):
    """Errors e[c, k] of an image: mean of loss(eps_k - eps_hat(x_t, t_k, caption c)) over channels and cells.

    All samples of all captions are evaluated: scores are read from the means, so nobody may drop out. The samples are
    the uniform grid of timesteps (Li et al. 2023 took 1000 and l2 for Winoground). The score of a pair is -mean(e);
    perception.metrics.matching makes figures of it.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        samples: int = 1000,  # evenly spaced timesteps
        trials: int = 1,  # noises per timestep
        loss: str = "l2",  # l2, l1 or huber
        rows: int = 32,  # most rows per denoiser call
        truncate: bool = False,  # cut captions that the text encoder cannot take whole, instead of raising
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.truncate = truncate
        self.score = DenoisingErrors(backbone, loss, rows)
        (self.samples,) = Exhaustive(samples, trials).blocks(backbone.num_train_timesteps)

    @torch.inference_mode()
    def forward(self, images: Tensor, captions: Sequence[str], noise: NoiseSource | None = None) -> Tensor:
        """Errors [B, C, N] of images [B, 3, H, W], RGB in [0, 1], float32 on the CPU; "" is the empty caption.

        Raises UserError for no captions, one that is too long, and for errors that are not finite.
        """
        errors = self.match_latents(self.backbone.encode(images), captions, noise)
        if not errors.isfinite().all():
            raise UserError("the denoising errors are not finite; run the backbone in float32 or bfloat16")
        return errors

    @torch.inference_mode()
    def match_latents(self, latents: Tensor, captions: Sequence[str], noise: NoiseSource | None = None) -> Tensor:
        """The same for clean latents [B, C, h, w]; errors that are not finite are returned."""
        check_tensors(latents=latents)
        condition = self.backbone.condition(captions, truncate=self.truncate)
        candidates, draw = torch.arange(len(captions)), noise or SeededNoise()
        parts = []
        for start in range(0, len(self.samples), _CHUNK):
            chunk = self.samples[start : start + _CHUNK]
            eps, timesteps = self._drawn(chunk, latents, draw)
            x0 = latents.repeat_interleave(len(chunk), 0)  # [B * n, C, h, w]
            repeated = eps.repeat(len(latents), 1, 1, 1), timesteps.repeat(len(latents))
            errors = self.score(x0, *repeated, condition, candidates.expand(len(x0), -1))  # [B * n, C]
            parts.append(errors.cpu().view(len(latents), len(chunk), -1).transpose(1, 2))
        return torch.cat(parts, dim=2)

    def _drawn(self, samples: Sequence[TimestepNoise], latents: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        """Noise [n, C, h, w] on the device of the latents, and timesteps [n] on the CPU."""
        shape = tuple(latents.shape[1:])
        eps = torch.stack([noise(SHARED, sample, shape) for sample in samples])
        return eps.to(latents.device), torch.tensor([sample.timestep for sample in samples])
