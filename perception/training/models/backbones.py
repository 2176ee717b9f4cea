"""mmseg backbones: any frozen diffusion model under any mmseg neck and decode head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.model import BaseModule
from torch import Tensor

from perception.backbones.spec import FeatureSpec
from perception.training.models.frozen import FrozenFeatures, shared_backbone
from perception.training.registry import MODELS


@MODELS.register_module()
class DiffusionFeatures(BaseModule):
    """Feature pyramid of a frozen diffusion model: [B, 3, H, W] in [0, 1] -> one float32 map per tap.

    Feed it RGB in [0, 1]: `SegDataPreProcessor(mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True)` behind BGR
    loading. The frozen weights are no parameters of this module: checkpoints, EMA and DDP see the head alone. Leave
    `in_channels` and `feature_strides` out of neck and head: they are read from the taps.

    Raises:
        UserError: unknown backbone or tap, bad timesteps or choices.
    """

    def __init__(
        self,
        name: str = "mini",  # what load_backbone takes: "mini", a hub id, a local folder
        taps: Sequence[str] = ("up_blocks.3", "up_blocks.2", "up_blocks.1", "up_blocks.0"),  # finest first, for FPNs
        timesteps: Sequence[int] = (50,),
        noise: Literal["none", "shared", "per_image"] = "shared",
        seed: int = 0,  # of the noise
        prompt: str = "",
        aggregate: Literal["concat", "mean"] = "concat",  # of the timesteps
        dtype: str = "float32",  # of the frozen weights; the maps are float32
        random_init_seed: int | None = None,  # random weights instead of trained ones: the control experiment
        vae: str | None = None,  # another VAE folder
        store: str | None = None,  # folder of computed features; the second epoch reads it
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        spec = FeatureSpec(taps, timesteps, noise, seed, aggregate, prompt)  # type: ignore[arg-type]  # takes lists
        backbone = shared_backbone(str(name), dtype, random_init_seed, vae)
        self.frozen = FrozenFeatures(backbone, spec, Path(store) if store else None)
        self.fingerprint = backbone.fingerprint
        self.channels, self.strides = self.frozen.channels, self.frozen.strides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps in the order of `taps`; see `FrozenFeatures.__call__`."""
        return self.frozen(images)

    def flush_store(self) -> None:
        """Write what the store still holds in memory."""
        self.frozen.flush()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> DiffusionFeatures:
        self.frozen.apply(fn)
        return super()._apply(fn, recurse)
