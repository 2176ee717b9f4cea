"""Features of a frozen diffusion backbone for training: images in, a tuple of maps out, through the store if wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.loading.load import load_backbone
from perception.backbones.spec import FeatureSpec
from perception.backbones.stored import CachedFeatures
from perception.backbones.taps import check_taps
from perception.data.images import content_hash
from perception.data.store import TensorStore
from perception.errors import UserError


@lru_cache(maxsize=2)
def shared_backbone(name: str, dtype: str, random_init_seed: int | None, vae: str | None) -> DiffusionBackbone:
    """One backbone per process and choice: it is frozen, so the model, its EMA copy and the checks share it."""
    return load_backbone(name, dtype=dtype, device="cpu", random_init_seed=random_init_seed, vae=vae)


def image_hashes(images: Tensor) -> list[str]:
    """The identity of each RGB image of [B, 3, H, W] in [0, 1]: the hash of its 8-bit content."""
    return [content_hash(row) for row in (images * 255).round().to(torch.uint8)]


class FrozenFeatures:
    """A frozen feature extractor that is shared, not copied, when the model around it is copied (EMA).

    Raises:
        UserError: a tap or timestep that the backbone does not have, or an aggregate that no head can read.
    """

    def __init__(self, backbone: DiffusionBackbone, spec: FeatureSpec, store: Path | None = None) -> None:
        self.backbone = backbone
        self.spec = spec
        self.store = None if store is None else TensorStore(store)
        check_taps(spec.taps, backbone.taps)
        backbone.noise_path.check(torch.tensor(spec.timesteps))
        unsized = [tap for tap in spec.taps if backbone.taps[tap].channels == 0]
        if unsized:
            raise UserError(
                f"{', '.join(unsized)} has as many channels as the image has cells; a head needs other taps"
            )
        if spec.aggregate == "stack":
            raise UserError("aggregate='stack' gives five-dimensional maps; a head needs 'concat' or 'mean'")
        self._cached = None if self.store is None else CachedFeatures(backbone, spec, self.store)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, in the order of `spec.taps`."""
        times = len(self.spec.timesteps) if self.spec.aggregate == "concat" else 1
        return tuple(self.backbone.taps[tap].channels * times for tap in self.spec.taps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map."""
        return tuple(self.backbone.taps[tap].stride for tap in self.spec.taps)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps float32 [B, channels[i], H / strides[i], W / strides[i]] of RGB images [B, 3, H, W] in [0, 1].

        The identity of an image (its key in the store, and its noise where that is per image) is the hash of its
        8-bit content. Autocast is switched off, so stored and fresh features agree.
        """
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            hashes = image_hashes(images)
            if self._cached is not None:
                maps = self._cached(images, hashes)
            else:
                maps = self.backbone.features(images, self.spec, image_ids=hashes)
        return tuple(maps[tap].to(images.device, torch.float32) for tap in self.spec.taps)

    def flush(self) -> None:
        """Write what the store still holds in memory."""
        if self.store is not None:
            self.store.flush()

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the backbone with the model around it (`nn.Module._apply`); its dtype stays as chosen."""
        device = fn(torch.empty(0)).device
        if device != self.backbone.device:
            self.backbone.to(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenFeatures:
        return self
