"""VPD as an mmseg backbone: text-prompted features and attention maps under any neck and decode head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.model import BaseModule
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.loading.load import load_backbone
from perception.conditioning import build_conditioning
from perception.conditioning.build import ConditioningKind
from perception.data.store import TensorStore
from perception.encoders.side import beside
from perception.encoders.vpd.encoder import VPD, Trained
from perception.errors import UserError
from perception.training.config.classes import class_names
from perception.training.models.frozen import image_hashes, shared_backbone
from perception.training.registry import MODELS


@MODELS.register_module()
class VPDFeatures(BaseModule):
    """Feature pyramid of VPD: [B, 3, H, W] in [0, 1] -> four float32 maps and the VAE encoder's, finest first.

    Feed it RGB in [0, 1], as `DiffusionFeatures`; leave `in_channels` and `feature_strides` out of neck and head. What
    is trained besides the head (`train`) is part of checkpoints; a frozen backbone is not.

    Raises:
        UserError: an unknown data set in `names`, or what the conditioning and `VPD` raise.
    """

    def __init__(
        self,
        name: str = "mini",  # what load_backbone takes: "mini", a hub id, a local folder
        conditioning: ConditioningKind = "class_names",  # or learned, captions, empty
        names: str | Sequence[str] = (),  # the classes, or the data set that knows them, e.g. "ADE20KDataset"
        templates: Sequence[str] | Literal["imagenet"] = ("a photo of a {}",),  # of class names; "imagenet": CLIP's 80
        pool: Literal["eos", "mean"] = "eos",  # of the prompts of class names
        tokens: int | None = None,  # learned: how many; None: as many as there are names
        length: int | None = None,  # tokens that prompts are padded to; None: all there are
        adapter: bool = False,  # correct the text by a TextAdapter
        adapter_hidden: int | None = None,
        timestep: int = 1,
        latent_scale: float | None = None,  # None: the model's own; 1.0: the published weights
        upsample: int = 1,  # images are enlarged so many times before the VAE: finer cells
        encoder_strides: Sequence[int] = (),  # of the VAE's encoder, in pixels; its maps are extra levels, finest first
        map_strides: Sequence[int] = (16, 32),  # of the denoiser, in pixels; () = no attention maps
        map_places: Sequence[str] = ("up", "down"),
        train: Trained = "head",  # or text, lora, denoiser
        lora_rank: int = 8,
        attn_grad: bool = False,
        checkpointing: bool = False,
        dtype: str = "float32",  # of the frozen weights; the maps are float32
        random_init_seed: int | None = None,  # random weights instead of trained ones: the control experiment
        side: str | None = None,  # timm model trained from scratch beside it, e.g. "resnet18", whose maps at strides
        # 4, 8 and 16 join those of equal strides; those that are finer come first (`SideNetwork`)
        standardize: bool = False,  # mean 0, variance 1 per channel (BatchNorm without weights): maps count as features
        store: str | None = None,  # folder of computed features (train="head") or latents; the second epoch reads it
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        backbone = vpd_backbone(str(name), dtype, random_init_seed, train)
        self.fingerprint = backbone.fingerprint  # of the weights before any training
        # fmt: off
        told = build_conditioning(
            conditioning, backbone, names=class_names(names), templates=templates, pool=pool, tokens=tokens,
            length=length,
        )
        self.vpd = VPD(
            backbone, told, adapter=adapter, adapter_hidden=adapter_hidden, timestep=timestep,
            latent_scale=latent_scale, upsample=upsample, encoder_strides=encoder_strides, map_strides=map_strides,
            map_places=map_places, train=train, lora_rank=lora_rank, attn_grad=attn_grad,
            checkpointing=checkpointing,
        )
        # fmt: on
        self.features = StoredFeatures(self.vpd, open_store(store))
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width, affine=False) if standardize else nn.Identity() for width in self.vpd.channels
        )
        self.side, self.strides, self.channels = beside(side, self.vpd.strides, self.vpd.channels)
        self.given: Sequence[Any] | None = None  # captions of the batch, while `PromptedSegmentor` runs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps [B, channels[i], H / strides[i], W / strides[i]]; see `VPD.forward`. UserError where captions lack."""
        if self.given is None and self.vpd.conditioning.per_image:
            raise UserError(
                "this backbone is told a caption per image, and none came; use perception.PromptedSegmentor as the"
                " model and perception.ReadCaption in the pipeline (configs/README.md)"
            )
        maps = self.features(images, self.given)
        maps = tuple(norm(value) for norm, value in zip(self.norms, maps, strict=True))
        return maps if self.side is None else self.side(images, maps)

    def flush_store(self) -> None:
        """Write what the store still holds in memory."""
        self.features.flush()


class StoredFeatures:
    """The maps of a VPD, through a store where one is named; no module, so its VPD belongs to the one who holds it."""

    def __init__(self, vpd: VPD, store: TensorStore | None) -> None:
        self.vpd = vpd
        self.store = store
        self._stored = None if store is None else vpd.stored(store)

    def __call__(self, images: Tensor, given: Sequence[Any] | None) -> tuple[Tensor, ...]:
        """Maps of RGB images [B, 3, H, W] in [0, 1]; images are known by the hash of their 8-bit content."""
        if self._stored is None:
            return self.vpd(images, given)
        return self._stored(images, given, image_hashes(images))

    def flush(self) -> None:
        """Write what the store still holds in memory."""
        if self.store is not None:
            self.store.flush()

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredFeatures:
        return StoredFeatures(copy.deepcopy(self.vpd, memo), self.store)


def open_store(folder: str | None) -> TensorStore | None:
    """The store in a folder, made if it is not there; None for None."""
    return None if folder is None else TensorStore(Path(folder))


def vpd_backbone(name: str, dtype: str, random_init_seed: int | None, train: Trained) -> DiffusionBackbone:
    """The process's shared backbone while it stays frozen, else one of its own."""
    if train in ("head", "text"):
        return shared_backbone(name, dtype, random_init_seed, None)
    return load_backbone(name, dtype=dtype, device="cpu", random_init_seed=random_init_seed)
