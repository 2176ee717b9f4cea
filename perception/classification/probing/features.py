"""Average-pooled features of a labelled set of images, read from a store or computed into it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.spec import FeatureSpec
from perception.backbones.stored import CachedFeatures
from perception.data.store import TensorStore

Features = dict[tuple[str, int], np.ndarray]  # (tap, timestep) -> [images, channels] float32
FLUSH_SECONDS = 20.0  # at most this much work is lost by a kill; shorter makes many small shards


class PooledFeatures(CachedFeatures):
    """Features averaged over their cells, tap -> [B, C']: a few kilobytes per image in place of megabytes of maps."""

    def __init__(self, backbone: DiffusionBackbone, spec: FeatureSpec, store: TensorStore) -> None:
        super().__init__(backbone, spec, store)
        self._spec_json = {**spec.to_json(), "pool": "mean"}

    def _features(self, images: Tensor, hashes: Sequence[str]) -> dict[str, Tensor]:
        maps = super()._features(images, hashes)
        return {tap: values.float().mean((-2, -1)) for tap, values in maps.items()}


class FeatureTable:
    """Collects pooled features of batches of images for every tap and timestep.

    Each timestep has store entries of its own, so a later sweep over more timesteps computes only the new ones.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        store: TensorStore,
        taps: Sequence[str],
        timesteps: Sequence[int],
        seed: int = 0,  # of the noise, which all images share
    ) -> None:
        self._store = store
        self._sources = [
            PooledFeatures(backbone, FeatureSpec(tuple(taps), (t,), seed=seed), store) for t in dict.fromkeys(timesteps)
        ]
        self._parts: dict[tuple[str, int], list[Tensor]] = {}
        self._flushed = time.monotonic()

    @torch.inference_mode()
    def add(self, images: Tensor, hashes: Sequence[str]) -> None:
        """Append images [B, 3, H, W] in [0, 1] with their content hashes; on disk within FLUSH_SECONDS."""
        for source in self._sources:
            for tap, values in source(images, hashes).items():
                self._parts.setdefault((tap, source.spec.timesteps[0]), []).append(values.cpu())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._store.flush()
            self._flushed = time.monotonic()

    def features(self) -> Features:
        """Everything added so far, ordered by tap, then by timestep."""
        taps = dict.fromkeys(tap for tap, _ in self._parts)
        steps = [source.spec.timesteps[0] for source in self._sources]
        return {(tap, t): torch.cat(self._parts[tap, t]).numpy() for tap in taps for t in steps}


def default_taps(backbone: DiffusionBackbone) -> tuple[str, ...]:
    """The latent and every whole block of the denoiser, in order of execution; of transformers their blocks."""
    kinds = {tap.kind for tap in backbone.taps.values()}
    blocks = "block" if "block" in kinds else "transformer_block"
    return tuple(name for name, tap in backbone.taps.items() if tap.kind in ("latent", blocks))


def batches(items: Iterable[tuple[Tensor, str]], size: int) -> Iterable[tuple[Tensor, list[str]]]:
    """Group (image, hash) pairs into stacked batches of at most `size`."""
    images: list[Tensor] = []
    hashes: list[str] = []
    for image, digest in items:
        images.append(image)
        hashes.append(digest)
        if len(images) == size:
            yield torch.stack(images), hashes
            images, hashes = [], []
    if images:
        yield torch.stack(images), hashes
