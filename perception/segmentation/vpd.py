"""VPD: a text-prompted diffusion UNet as a dense backbone (Zhao et al. 2023, arXiv 2303.02153)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception.backbones import Condition, DiffusionBackbone
from perception.backbones.attention import AttentionSpec, merge_maps
from perception.backbones.handle import SharedBackbone
from perception.backbones.latents import check_latents
from perception.conditioning import Conditioning, TextAdapter
from perception.errors import UserError
from perception.segmentation.vpd_taps import map_layers, vpd_taps

Trained = Literal["head", "text", "denoiser", "lora"]


class VPD(nn.Module):
    """Feature pyramid of one denoiser call on the clean latent, with cross-attention maps as extra channels.

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
        map_strides: Sequence[int] = (16, 32),  # pixels; scales whose averaged maps are appended; () = none
        map_places: Sequence[str] = ("up", "down"),  # of up, down: layers averaged, in this order
        train: Trained = "head",  # besides the head: nothing | adapter, learned tokens | also UNet | also LoRA
        lora_rank: int = 8,
        attn_grad: bool = False,  # let gradients through the maps; the reference detaches them
        checkpointing: bool = False,  # recompute blocks in the backward pass instead of keeping activations
        shortcuts: bool = True,  # exact savings; False: the plain path
    ) -> None:
        super().__init__()
        self._holder = SharedBackbone(backbone)
        self.conditioning = conditioning
        self.adapter = TextAdapter(backbone.text_width, adapter_hidden) if adapter else None
        self.timestep = timestep
        self.latent_scale = latent_scale
        self.trained: Trained = train
        self.attn_grad, self.checkpointing, self.shortcuts = attn_grad, checkpointing, shortcuts
        self.taps = vpd_taps(backbone)
        self.strides = tuple(backbone.taps[tap].stride for tap in self.taps)
        self.map_layers = map_layers(backbone.taps, self.strides, map_strides, map_places)

    @property
    def backbone(self) -> DiffusionBackbone:
        """The diffusion model; its weights are no parameters of this module unless trained."""
        return self._holder.backbone

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, finest first, attention maps included."""
        tokens = self.conditioning.tokens
        return tuple(
            self.backbone.taps[tap].channels + (tokens if stride in self.map_layers else 0)
            for tap, stride in zip(self.taps, self.strides, strict=True)
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W] in [0, 1] -> clean latents [B, C, h, w], float32, times this network's scale.

        Raises:
            UserError: as `DiffusionBackbone.encode`, and for sides that the coarsest stride (64) does not divide.
        """
        self._check_size(images, 1, "images", "pixels")
        with torch.autocast(self.backbone.device.type, enabled=False):
            return self.rescale(self.backbone.encode(images.to(self.backbone.device, torch.float32)))

    def rescale(self, latents: Tensor) -> Tensor:
        """Latents as `DiffusionBackbone.encode` makes them -> at this network's `latent_scale`."""
        return latents if self.latent_scale is None else self.backbone.unscaled(latents) * self.latent_scale

    def forward(
        self,
        images: Tensor | None = None,  # [B, 3, H, W] RGB in [0, 1]
        given: Sequence[Any] | None = None,  # what the conditioning takes, one entry per image
        *,
        latents: Tensor | None = None,  # in place of images, as `encode` makes them
    ) -> tuple[Tensor, ...]:
        """Maps float32 [B, channels[i], H / strides[i], W / strides[i]], finest first.

        Raises:
            UserError: wrong sizes, neither or both of images and latents, or what the conditioning raises.
        """
        if (images is None) == (latents is None):
            raise UserError("VPD needs either images or latents; pass one of the two")
        if images is not None:
            x = self.encode(images)
        else:
            assert latents is not None
            check_latents(latents, self.backbone.latent_channels)
            self._check_size(latents, self.backbone.latent_stride, "latents", "cells")
            x = latents.to(self.backbone.device)
        with ExitStack() as stack:
            if self.trained == "head":
                stack.enter_context(torch.no_grad())
                stack.enter_context(torch.autocast(x.device.type, enabled=False))
            return self._pyramid(self._capture(x, self._told(given, len(x)), stack))

    def _told(self, given: Sequence[Any] | None, rows: int) -> Condition:
        tokens = self.conditioning(given)
        if self.adapter is not None:
            tokens = self.adapter(tokens)
        return self.backbone.condition([""]).expand(len(tokens)).with_hidden(tokens).expand(rows)

    def _capture(self, x: Tensor, condition: Condition, stack: ExitStack) -> dict[str, Tensor]:
        names = [*self.taps, *(name for layers in self.map_layers.values() for name in layers)]
        return self.backbone.capture(x, self.timestep, condition, names)

    def _pyramid(self, taken: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Features with the mean map of their scale appended, [B, C + K, h, w]."""
        layers = {name: taken[name] for names in self.map_layers.values() for name in names}
        maps = merge_maps(layers, self.backbone.taps, AttentionSpec())
        out = []
        for tap, stride in zip(self.taps, self.strides, strict=True):
            extra = [maps[stride] if self.attn_grad else maps[stride].detach()] if stride in maps else []
            out.append(torch.cat([taken[tap], *extra], dim=1).float())
        return tuple(out)

    def _check_size(self, value: Tensor, cell: int, what: str, unit: str) -> None:
        multiple = max(self.strides) // cell
        if value.dim() == 4 and (value.shape[-2] % multiple or value.shape[-1] % multiple):
            height, width = value.shape[-2:]
            near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
            raise UserError(
                f"the {what} are {height}x{width} {unit}; expected sides that are multiples of {multiple}: "
                f"resize or pad them, for example to {near[0]}x{near[1]}"
            )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> VPD:
        self._holder.apply(fn)
        return super()._apply(fn, recurse)
