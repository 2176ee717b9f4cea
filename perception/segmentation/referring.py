"""Referring segmentation: which pixels a sentence means.

network = ReferringNet.from_pretrained(FOLDER)
logits = network(images, ["the man in red", ...])          # [B, 2, H, W]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.backbones.backbone import DiffusionBackbone
from perception.checks import check_tensors
from perception.conditioning import Sentences
from perception.encoders.network import TaskNetwork, open_backbone
from perception.encoders.timm import TimmTextEncoder
from perception.encoders.vpd.encoder import VPD, Trained
from perception.errors import UserError
from perception.segmentation.referring_head import ReferringDecoder, referring_loss

__all__ = ["ReferringDecoder", "ReferringNet", "referring_loss"]


class ReferringNet(TaskNetwork):
    """VPD's referring network: the pyramid of an image told a sentence, decoded to background and foreground.

    The published model: backbone SD 1.5, length 40 (RefCOCO, RefCOCO+) or 77 (RefCOCOg), truncate, adapter,
    latent_scale 1.0, train "denoiser", hidden 640.

    Raises:
        UserError: another task or backbone than the weights are for, and whatever VPD raises.
    """

    task = "referring"

    def __init__(
        self,
        backbone: str | DiffusionBackbone = "mini",  # what load_backbone takes, or a loaded one (fresh, if trained)
        dtype: str = "float32",  # of the frozen weights
        vae: str | None = None,  # another VAE folder
        random_init_seed: int | None = None,  # random backbone weights: the control experiment
        backbone_fingerprint: str | None = None,  # of the backbone that the weights were trained on
        length: int = 20,  # tokens per sentence, each a channel of the maps
        truncate: bool = False,  # cut longer sentences instead of raising
        adapter: bool = False,  # correct the text by a TextAdapter
        timestep: int = 1,  # of the training schedule
        latent_scale: float | None = None,  # None: the model's own; 1.0: the published networks
        upsample: int = 1,  # images are enlarged so many times before the VAE
        map_strides: Sequence[int] = (16, 32),  # of the denoiser, in pixels; scales with attention maps
        map_places: Sequence[str] = ("up", "down"),  # layers averaged
        train: Trained = "head",  # besides the head: nothing | adapter | also UNet | also LoRA
        lora_rank: int = 8,
        attn_grad: bool = False,  # let gradients through the maps
        checkpointing: bool = False,  # save memory in training
        hidden: int | None = 128,  # width of the decoder; None: half the channels of the coarsest map
        encoder: str | None = None,  # a timm model, trained from scratch, in the diffusion model's place: a control
        image_size: Sequence[int] | None = None,  # height, width of the training images
        metrics: Mapping[str, Any] | None = None,  # of the validation that chose these weights
        task: str = "referring",  # written into config.json
    ) -> None:
        super().__init__()
        model = open_backbone(backbone, dtype, vae, random_init_seed)
        if encoder is None:
            told = Sentences(model, length, truncate=truncate)
            # fmt: off
            self.encoder = VPD(
                model, told, adapter=adapter, timestep=timestep, latent_scale=latent_scale,
                upsample=upsample, map_strides=map_strides, map_places=map_places, attn_grad=attn_grad,
                train=train, lora_rank=lora_rank, checkpointing=checkpointing,
            )
            # fmt: on
        else:
            self.encoder = TimmTextEncoder(encoder, model, length, truncate)
        self.decoder = ReferringDecoder(self.encoder.channels, hidden)
        self._describe(task, backbone_fingerprint, image_size, metrics)

    def forward(self, images: Tensor, sentences: Sequence[str]) -> Tensor:
        """Logits float32 [B, 2, H, W] (background, foreground).

        Args:
            images: RGB [B, 3, H, W] in [0, 1], sides divisible by the coarsest stride (64 / upsample).
            sentences: one per image.
        Raises:
            UserError: other sizes, an empty sentence, or one of more than `length` tokens unless `truncate`.
        """
        check_tensors(images=images)
        return self.decode(self.encoder(images, sentences), (images.shape[-2], images.shape[-1]))

    def decode(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits float32 [B, 2, H, W] of the encoder's maps: decoded, then bilinear with aligned corners."""
        return F.interpolate(self.decoder(features).float(), size, mode="bilinear", align_corners=True)

    @torch.no_grad()
    def refer(
        self,
        latent: Tensor,  # of one image [C, h, w] or [1, C, h, w], as vpd.encode makes it
        sentences: Sequence[str],
        *,
        size: tuple[int, int] | None = None,  # (H, W) of the logits; None: of the image that was encoded
        rows: int = 8,  # sentences per denoiser call
    ) -> Tensor:
        """Logits float32 [N, 2, H, W] of N sentences about one image, which is encoded once.

        Equal to `forward` on the image and each sentence.

        Raises:
            UserError: no sentence, or what `forward` raises of one.
        """
        check_tensors(latent=latent)
        if not len(sentences):
            raise UserError("there is no sentence to look for; pass at least one, such as ['the man in red']")
        vpd, latent = self.vpd, latent.reshape(-1, *latent.shape[-3:])
        stride = vpd.backbone.latent_stride // vpd.upsample
        size = size or (latent.shape[-2] * stride, latent.shape[-1] * stride)
        parts = []
        for start in range(0, len(sentences), rows):
            told = sentences[start : start + rows]
            features = vpd(given=told, latents=latent.expand(len(told), -1, -1, -1))
            parts.append(self.decode(features, size))
        return torch.cat(parts)
