"""VPD: a text-prompted diffusion UNet as a dense backbone (Zhao et al. 2023, arXiv 2303.02153)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones.attention import AttentionSpec, merge_maps
from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition
from perception.backbones.encoder_maps import encode_with_maps, encoder_channels
from perception.backbones.latents import check_latents
from perception.backbones.shared import OwnedBackbone, SharedBackbone
from perception.conditioning import Conditioning, TextAdapter
from perception.conditioning.base import Digest, text_identity
from perception.data.store import TensorStore
from perception.encoders.stored import StoredVPD
from perception.encoders.vpd.checks import check_options, check_sides
from perception.encoders.vpd.taps import map_layers, vpd_taps
from perception.encoders.vpd.training import add_lora, unlock_denoiser
from perception.errors import UserError

Trained = Literal["head", "text", "denoiser", "lora"]


class VPD(nn.Module):
    """Feature pyramid of one denoiser call on the clean latent, with cross-attention maps as extra channels.

    Beyond the paper, maps of the VAE's encoder can be its finest levels (`encoder_strides`), of what the latent drops.

    The backbone is frozen and shared unless the denoiser is trained: then it belongs to this network, so pass a fresh
    one. `state_dict()` holds what is trained or specific: adapter, tokens or table, LoRA weights or the whole UNet.

    Raises:
        UserError: text of another width than the denoiser's, a timestep outside the schedule, scales without maps,
            nothing to train.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        conditioning: Conditioning,
        *,
        adapter: bool = False,  # correct the text by a TextAdapter
        adapter_hidden: int | None = None,  # its hidden width; None: the text's
        timestep: int = 1,  # of the training schedule; no noise is added
        latent_scale: float | None = None,  # factor on the VAE's raw mean; None: the model's own; 1.0: the reference
        upsample: int = 1,  # images are enlarged so many times before the VAE: finer cells for small pictures
        encoder_strides: Sequence[int] = (),  # of the VAE's encoder, in pixels: its maps join the pyramid, finest first
        map_strides: Sequence[int] = (16, 32),  # of the denoiser, in pixels; scales with attention maps; () = none
        map_places: Sequence[str] = ("up", "down"),  # of up, down: layers averaged, in this order
        train: Trained = "head",  # besides the head: nothing | adapter, learned tokens | also UNet | also LoRA
        lora_rank: int = 8,
        attn_grad: bool = False,  # let gradients through the maps; the reference detaches them
        checkpointing: bool = False,  # recompute blocks in the backward pass instead of keeping activations
    ) -> None:
        super().__init__()
        check_options(
            backbone,
            conditioning,
            timestep=timestep,
            upsample=upsample,
            encoder_strides=encoder_strides,
            train=train,
            adapter=adapter,
            attn_grad=attn_grad,
            checkpointing=checkpointing,
        )
        self._holder = SharedBackbone(backbone)
        self.conditioning = conditioning
        self.adapter = TextAdapter(backbone.text_width, adapter_hidden) if adapter else None
        self.timestep, self.latent_scale, self.upsample = timestep, latent_scale, upsample
        self.trained: Trained = train
        self.attn_grad, self.checkpointing = attn_grad, checkpointing
        self.taps = vpd_taps(backbone)
        self.encoder_strides = tuple(encoder_strides)
        self.tap_strides = tuple(backbone.taps[tap].stride for tap in self.taps)  # in pixels of the enlarged image
        levels = (*self.encoder_strides, *self.tap_strides)
        self.strides = tuple(stride // upsample for stride in levels)  # of the pyramid, in pixels of the image
        self.map_layers = map_layers(backbone.taps, self.tap_strides, map_strides, map_places)
        self._digest = Digest()  # of the adapter
        self._unlock(lora_rank)

    @property
    def backbone(self) -> DiffusionBackbone:
        """The diffusion model; its weights are no parameters of this module unless trained."""
        return self._holder.backbone

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, finest first, attention maps included."""
        fine, tokens = encoder_channels(self.backbone), self.conditioning.tokens
        return tuple(fine[stride] for stride in self.encoder_strides) + tuple(
            self.backbone.taps[tap].channels + (tokens if stride in self.map_layers else 0)
            for tap, stride in zip(self.taps, self.tap_strides, strict=True)
        )

    @property
    def places(self) -> tuple[str, ...]:
        """Where the attention maps come from, in the order in which they are averaged."""
        return tuple(name for layers in self.map_layers.values() for name in layers)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W] in [0, 1] -> clean latents [B, C, h, w], float32, times this network's scale.

        Raises:
            UserError: as `DiffusionBackbone.encode`, and for sides that the coarsest stride does not divide.
        """
        return self.read(images)[0]

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Latents as `encode` gives them and the encoder's maps at `encoder_strides`, [B, C, h, w], float32."""
        self.check_images(images)
        with torch.autocast(self.backbone.device.type, enabled=False):
            enlarged = self.enlarge(images.to(self.backbone.device))
            if not self.encoder_strides:
                return self.rescale(self.backbone.encode(enlarged)), ()
            latents, fine = encode_with_maps(self.backbone, enlarged, self.encoder_strides)
            return self.rescale(latents), fine

    def check_images(self, images: Tensor) -> None:
        """UserError unless the coarsest stride divides height and width."""
        check_sides(images, max(self.strides), "images", "pixels")

    def enlarge(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] at `upsample` times their size, bicubic."""
        if self.upsample == 1:
            return images
        return F.interpolate(images, scale_factor=self.upsample, mode="bicubic", antialias=True).clamp(0, 1)

    def options(self) -> dict[str, Any]:
        """What features depend on besides image, text and backbone, as JSON values: part of their store key."""
        return {
            "kind": "vpd",
            "taps": list(self.taps),
            "maps": {str(stride): list(layers) for stride, layers in self.map_layers.items()},
            "timestep": self.timestep,
            "latent_scale": self.latent_scale,
            **({} if self.upsample == 1 else {"upsample": self.upsample}),
            **({"encoder_strides": list(self.encoder_strides)} if self.encoder_strides else {}),
        }

    def rescale(self, latents: Tensor) -> Tensor:
        """Latents as `DiffusionBackbone.encode` makes them -> at this network's `latent_scale`."""
        return latents if self.latent_scale is None else self.backbone.unscaled(latents) * self.latent_scale

    def forward(
        self,
        images: Tensor | None = None,  # [B, 3, H, W] RGB in [0, 1]
        given: Sequence[Any] | None = None,  # what the conditioning takes, one entry per image
        *,
        latents: Tensor | None = None,  # in place of images, as `encode` makes them
        fine: Sequence[Tensor] = (),  # with latents: the encoder's maps, as `read` makes them
    ) -> tuple[Tensor, ...]:
        """Maps float32 [B, channels[i], H / strides[i], W / strides[i]], finest first.

        Raises:
            UserError: wrong sizes, neither or both of images and latents, or what the conditioning raises.
        """
        if (images is None) == (latents is None):
            raise UserError("VPD needs either images or latents; pass one of the two")
        if images is not None:
            x, fine = self.read(images)
        else:
            assert latents is not None
            check_latents(latents, self.backbone.latent_channels)
            check_sides(latents, max(self.tap_strides) // self.backbone.latent_stride, "latents", "cells")
            if len(fine) != len(self.encoder_strides):
                raise UserError(
                    f"{len(fine)} maps of the encoder came with the latents; expected those of `read` at the strides "
                    f"{self.encoder_strides}"
                )
            x = latents.to(self.backbone.device)
        with ExitStack() as stack:
            if self.trained == "head":
                stack.enter_context(torch.no_grad())
                stack.enter_context(torch.autocast(x.device.type, enabled=False))
            if self.checkpointing and torch.is_grad_enabled():
                stack.enter_context(self.backbone.checkpointed())
            condition = self.told(given, len(x))
            return self._pyramid(fine, self._capture(x, condition))

    def told(self, given: Sequence[Any] | None, rows: int) -> Condition:
        """The condition of `rows` images: the adapted tokens; SDXL's pooled text stays that of "".

        Raises:
            UserError: another number of entries than images, or what the conditioning raises.
        """
        entries = len(self.conditioning.entries(given))
        if entries not in (1, rows):
            raise UserError(f"{entries} texts were given for {rows} images; expected one per image")
        tokens = self.conditioning(given)
        if self.adapter is not None:
            tokens = self.adapter(tokens)
        return self.backbone.condition([""]).expand(len(tokens)).with_hidden(tokens).expand(rows)

    def text_identity(self, entry: Any = None) -> str:
        """Hex digest of what the denoiser is told for one entry of `given`, the adapter included."""
        digest = "" if self.adapter is None else self._digest(*self.adapter.parameters())
        return text_identity(self.conditioning.identity(entry), digest)

    def stored(self, store: TensorStore) -> StoredVPD:
        """This network behind a store of latents, and of features where the denoiser and the text are frozen."""
        return StoredVPD(self, store)

    def _capture(self, x: Tensor, condition: Condition) -> dict[str, Tensor]:
        # leaving the denoiser from inside a checkpointed block would leave that block unfinished
        inside = self.checkpointing and self.backbone.taps[self.taps[0]].kind == "residual_block"
        return self.backbone.capture(
            x,
            self.timestep,
            condition,
            [*self.taps, *self.places],
            stop=not inside,
            detach_maps=not self.attn_grad,
        )

    def _pyramid(self, fine: Sequence[Tensor], taken: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The encoder's maps, then features with the mean map of their scale appended, [B, C + K, h, w]."""
        maps = merge_maps({name: taken[name] for name in self.places}, self.backbone.taps, AttentionSpec())
        out = list(fine)
        for tap, stride in zip(self.taps, self.tap_strides, strict=True):
            extra = [maps[stride]] if stride in maps else []
            out.append(torch.cat([taken[tap], *extra], dim=1).float())
        return tuple(out)

    def _unlock(self, lora_rank: int) -> None:
        for part in (self.conditioning, self.adapter):
            if part is not None:
                part.requires_grad_(self.trained != "head")
        if self.trained in ("denoiser", "lora"):
            self._holder = OwnedBackbone(self.backbone)
        single_token = self.conditioning.tokens == 1 and not self.map_layers
        if self.trained == "denoiser":
            self.unet = unlock_denoiser(self.backbone, single_token)
        if self.trained == "lora":
            self.lora = add_lora(self.backbone, lora_rank, single_token)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> VPD:
        self._holder.apply(fn)
        return super()._apply(fn, recurse)
