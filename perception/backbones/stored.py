"""Backbone features and latents, cached in a `TensorStore`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.spec import FeatureSpec
from perception.backbones.taps import check_taps
from perception.data.store import TensorStore, feature_key
from perception.errors import UserError

_LATENT = {"kind": "latent"}  # latents depend on the image and the VAE, not on a feature spec


class StoredRows:
    """Batches of named tensors, one store entry per row."""

    def __init__(self, store: TensorStore) -> None:  # open for writing unless it holds everything
        self.store = store

    def lookup(self, keys: Sequence[str]) -> dict[str, Tensor] | None:
        """The entries stacked, name -> [B, ...] on the CPU in the dtype of the store; None unless all are there."""
        entries = [self.store.get(key) for key in keys]
        present = [entry for entry in entries if entry is not None]
        return _stacked(present) if len(present) == len(entries) else None

    def __call__(self, keys: Sequence[str], compute: Callable[[list[int]], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The entries stacked; `compute` makes those of the rows that the store lacks."""
        entries = [self.store.get(key) for key in keys]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        computed = compute(missing) if missing else {}
        for row, i in enumerate(missing):
            self.store.put(keys[i], {name: batch[row] for name, batch in computed.items()})
            entries[i] = self.store.get(keys[i])  # in the dtype of the store
        return _stacked([entry for entry in entries if entry is not None])


def _stacked(entries: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    kinds = [{name: (tensor.shape, tensor.dtype) for name, tensor in entry.items()} for entry in entries]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            "Entries of the store differ in the names, shapes or types of their tensors, which one model and one spec "
            "do not give; find the damaged shards with `perception store STORE verify`."
        )
    with torch.autocast("cpu", enabled=False):  # it knows no float16, the dtype of the store
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}


def _exact(backbone: DiffusionBackbone) -> torch.autocast:
    """No autocast: the fingerprint in a key names the dtype that the entry was computed in."""
    return torch.autocast(backbone.device.type, enabled=False)


class StoredLatents:
    """`backbone.encode` behind a store, without autocast; every method on the same VAE shares the entries."""

    def __init__(self, backbone: DiffusionBackbone, store: TensorStore) -> None:
        self.backbone = backbone
        self._rows = StoredRows(store)
        self._fingerprint = backbone.fingerprint

    def key(self, image_hash: str) -> str:
        """The store key of the clean latent of the image with this hash."""
        return feature_key(image_hash, self._fingerprint, _LATENT)

    @torch.no_grad()
    def __call__(self, images: Tensor, hashes: Sequence[str]) -> Tensor:
        """Clean latents [B, C, h, w] of images [B, 3, H, W], float32 on the backbone's device."""
        keys = [self.key(image_hash) for image_hash in hashes]
        with _exact(self.backbone):
            latents = self._rows(keys, lambda rows: {"latent": self.backbone.encode(images[rows])})["latent"]
        return latents.to(self.backbone.device, torch.float32)


class CachedFeatures:
    """`backbone.features` behind a store of latents and features.

    A result is the same whether it was stored or not: latents pass through the dtype of the store before the
    denoiser sees them, features before they are returned, and autocast is switched off. Per-image noise is a function
    of the image's hash.

    Raises:
        UserError: for unknown taps or timesteps (at once), and whatever the store and `encode` raise.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        spec: FeatureSpec,
        store: TensorStore,  # open for writing unless it holds everything
    ) -> None:
        check_spec(spec, backbone)
        self.backbone = backbone
        self.spec = spec
        self.store = store
        self._rows = StoredRows(store)
        self._latents = StoredLatents(backbone, store)
        self._fingerprint = backbone.fingerprint
        self._spec_json = spec.to_json()

    def key(self, image_hash: str) -> str:
        """The store key of the features of the image with this hash."""
        return feature_key(image_hash, self._fingerprint, self._spec_json)

    def latent_key(self, image_hash: str) -> str:
        """The store key of the clean latent of the image with this hash."""
        return self._latents.key(image_hash)

    def lookup(self, hashes: Sequence[str]) -> dict[str, Tensor] | None:
        """The features of these images when the store has all of them, else None. Needs no pixels."""
        found = self._rows.lookup([self.key(image_hash) for image_hash in hashes])
        return None if found is None else self._placed(found)

    @torch.no_grad()
    def __call__(self, images: Tensor, hashes: Sequence[str]) -> dict[str, Tensor]:
        """Features of images [B, 3, H, W] in [0, 1], tap -> float32 [B, C', h, w] on the backbone's device.

        `hashes` name the images' content, one each (`perception.data.images.content_hash`); VAE and denoiser run only
        for those that the store lacks.
        """
        if len(images) != len(hashes):
            raise UserError(f"{len(images)} images came with {len(hashes)} hashes; give one hash per image.")
        keys = [self.key(image_hash) for image_hash in hashes]
        with _exact(self.backbone):
            return self._placed(self._rows(keys, lambda rows: self._features(images[rows], [hashes[i] for i in rows])))

    def _features(self, images: Tensor, hashes: Sequence[str]) -> dict[str, Tensor]:
        latents = self._latents(images, hashes)
        return self.backbone.features(latents=latents, spec=self.spec, image_ids=hashes, micro_batch=len(hashes))

    def _placed(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.backbone.device, torch.float32) for name, value in features.items()}


def check_spec(spec: FeatureSpec, backbone: DiffusionBackbone) -> None:
    """Raise UserError for taps that the backbone lacks and timesteps outside its schedule."""
    check_taps(spec.taps, backbone.taps)
    backbone.noise_path.check(torch.tensor(spec.timesteps))
