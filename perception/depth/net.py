"""Metric depth of one image.

network = DepthNet.from_pretrained(FOLDER)
metres = network(images)                                   # [B, 1, H, W]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.backbones.backbone import DiffusionBackbone
from perception.checks import check_tensors
from perception.conditioning import build_conditioning
from perception.conditioning.build import ConditioningKind
from perception.data.nyu import NYU_ROOMS
from perception.depth.head import DepthHead
from perception.encoders.network import TaskNetwork, open_backbone
from perception.encoders.side import beside
from perception.encoders.timm import TimmEncoder
from perception.encoders.vpd.encoder import VPD, Trained
from perception.errors import UserError

_LEVELS = 4  # maps that the head reads


class DepthNet(TaskNetwork):
    """VPD's depth network: the pyramid of an image told its room, fused and decoded to metres.

    The published model: backbone SD 1.5, conditioning "class_id" over the 27 NYU rooms with templates "imagenet"
    and length 20, adapter, latent_scale 1.0, train "denoiser", fusion_channels 1536, num_filters (32, 32, 32),
    decoder_channels 192.

    Raises:
        UserError: another task or backbone than the weights are for, and whatever VPD and DepthHead raise.
    """

    task = "depth"

    def __init__(
        self,
        backbone: str | DiffusionBackbone = "mini",  # what load_backbone takes, or a loaded one (fresh, if trained)
        dtype: str = "float32",  # of the frozen weights
        vae: str | None = None,  # another VAE folder
        random_init_seed: int | None = None,  # random backbone weights: the control experiment
        backbone_fingerprint: str | None = None,  # of the backbone that the weights were trained on
        conditioning: ConditioningKind = "class_id",  # what the denoiser is told; see build_conditioning
        names: Sequence[str] = NYU_ROOMS,  # class_id, class_names: rows of the text table
        templates: Sequence[str] | Literal["imagenet"] = ("a photo of a {}",),  # of it; () = it comes with the weights
        tokens: int | None = None,  # learned: how many
        length: int | None = None,  # tokens that texts are padded to; None: all that the text encoder takes
        truncate: bool = False,  # cut longer texts instead of raising
        adapter: bool = False,  # correct the text by a TextAdapter
        timestep: int = 1,  # of the training schedule
        latent_scale: float | None = None,  # None: the model's own; 1.0: the published networks
        upsample: int = 1,  # images are enlarged so many times before the VAE
        map_strides: Sequence[int] = (),  # of the denoiser, in pixels; scales with attention maps
        map_places: Sequence[str] = ("up", "down"),  # layers averaged
        train: Trained = "head",  # besides the head: nothing | adapter, tokens | also UNet | also LoRA
        lora_rank: int = 8,
        attn_grad: bool = False,  # let gradients through the maps
        checkpointing: bool = False,  # save memory in training
        max_depth: float = 10.0,  # metres
        min_depth: float | None = None,  # metres, of a sigmoid in log depth (streets); None: in depth (rooms)
        fusion_channels: int = 512,
        num_filters: Sequence[int] = (128, 64, 32),  # of the deconvolutions
        deconv_kernels: Sequence[int] = (2, 2, 2),
        decoder_channels: int = 32,  # at full resolution
        side: str | None = None,  # timm model trained from scratch beside the diffusion model, e.g. "resnet18"
        encoder: str | None = None,  # a timm model, trained from scratch, in the diffusion model's place: a control
        image_size: Sequence[int] | None = None,  # height, width of the training images
        metrics: Mapping[str, Any] | None = None,  # of the validation that chose these weights
        task: str = "depth",  # written into config.json
    ) -> None:
        super().__init__()
        if side is not None and encoder is not None:
            raise UserError("side stands beside the diffusion model, but encoder takes its place; set one to None")
        if encoder is None:
            model = open_backbone(backbone, dtype, vae, random_init_seed)
            # fmt: off
            told = build_conditioning(
                conditioning, model, names=names, templates=templates, tokens=tokens, length=length,
                truncate=truncate, table=None if templates else torch.zeros(len(names), model.text_width),
            )
            self.encoder = VPD(
                model, told, adapter=adapter, timestep=timestep, latent_scale=latent_scale,
                upsample=upsample, map_strides=map_strides, map_places=map_places, attn_grad=attn_grad,
                train=train, lora_rank=lora_rank, checkpointing=checkpointing,
            )
            # fmt: on
        else:
            self.encoder = TimmEncoder(encoder)
        decoder = (fusion_channels, num_filters, deconv_kernels, decoder_channels, max_depth, min_depth)
        self.side, strides, channels = beside(side, self.encoder.strides, self.encoder.channels)
        self.head = DepthHead(channels[:_LEVELS], strides[0], *decoder)
        self._describe(task, backbone_fingerprint, image_size, metrics)

    @property
    def config(self) -> dict[str, Any]:
        """As `TaskNetwork.config`; the text table is part of the weights, so it is not made again from templates."""
        return {**super().config, "templates": []}

    def forward(self, images: Tensor, given: Sequence[Any] | None = None) -> Tensor:
        """Depth float32 [B, 1, H, W] in metres, in (min_depth or 0, max_depth).

        Args:
            images: RGB [B, 3, H, W] in [0, 1], any H and W.
            given: what the conditioning takes, one entry per image: class ids (-1 = unknown; None: all unknown),
                captions, or nothing.
        """
        check_tensors(images=images)
        padded = self.pad(images)
        return self.decode(self.with_side(padded, self.encoder(padded, given)), (images.shape[-2], images.shape[-1]))

    def with_side(self, images: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The encoder's maps of padded images, with those of the side network where there is one: the finest four."""
        return maps if self.side is None else self.side(images, maps)[:_LEVELS]

    def pad(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], filled at the bottom and right with mid grey up to the coarsest stride."""
        multiple = max(self.encoder.strides)
        down, right = (-side % multiple for side in images.shape[-2:])
        return F.pad(images, (0, right, 0, down), value=0.5) if down or right else images

    def decode(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Depth float32 [B, 1, H, W] in metres of the maps of `with_side`; `size` is (H, W) before padding."""
        return self.head(features, size)
