"""VPD through a store: what is frozen is computed once and read ever after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perception.backbones.stored import StoredLatents, StoredRows
from perception.checks import check_tensors
from perception.data.images import content_hash
from perception.data.store import TensorStore, feature_key
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.encoders.vpd.encoder import VPD


class StoredVPD:
    """Images -> pyramid as `VPD.forward`, without a call of VAE or denoiser for what the store has.

    With train="head" the whole pyramid is stored, one entry per image and text. Otherwise the clean latents are, and
    the denoiser runs with gradients. Latents pass through the dtype of the store before the denoiser sees them, so a
    result is the same whether it was stored or not; any network and method on the same VAE shares them.
    """

    def __init__(self, network: VPD, store: TensorStore) -> None:  # open for writing unless it holds everything
        self.network = network
        self.store = store
        self._latents = StoredLatents(network.backbone, store)
        self._rows = StoredRows(store)

    def __call__(
        self,
        images: Tensor,  # [B, 3, H, W] RGB in [0, 1]
        given: Sequence[Any] | None = None,  # as in VPD.forward
        hashes: Sequence[str] | None = None,  # names of the images' content; default: content_hash of 8-bit values
    ) -> tuple[Tensor, ...]:
        """Maps as `VPD.forward`, on the device of the network."""
        check_tensors(images=images)
        if hashes is None:
            hashes = [content_hash(row) for row in (images * 255).round().to(torch.uint8)]
        if len(hashes) != len(images):
            raise UserError(f"{len(images)} images came with {len(hashes)} hashes; give one hash per image")
        if self.network.trained != "head":
            latents, fine = self._clean(images, hashes)
            return self.network(given=given, latents=latents, fine=fine)
        entries = self._entries(given, len(images))
        names = list(hashes)

        def compute(rows: list[int]) -> dict[str, Tensor]:
            latents, fine = self._clean(images[rows], [names[i] for i in rows])
            told = given if len(entries) != len(images) or given is None else [entries[i] for i in rows]
            return _named(self.network(given=told, latents=latents, fine=fine))

        return self._tuple(self._rows(self._keys(hashes, entries), compute))

    def lookup(self, hashes: Sequence[str], given: Sequence[Any] | None = None) -> tuple[Tensor, ...] | None:
        """The pyramid of these images when the store has all of it, else None. Needs no pixels."""
        if self.network.trained != "head":
            return None
        found = self._rows.lookup(self._keys(hashes, self._entries(given, len(hashes))))
        return None if found is None else self._tuple(found)

    def flush(self) -> None:
        """Write what the store still holds in memory."""
        self.store.flush()

    def _clean(self, images: Tensor, hashes: Sequence[str]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Latents and the encoder's maps, through the store where they are not part of a stored pyramid."""
        network = self.network
        if network.encoder_strides:
            return network.read(images) if network.trained == "head" else self._read(images, hashes)
        network.check_images(images)
        with torch.autocast(network.backbone.device.type, enabled=False):
            factor = network.upsample
            names = [name if factor == 1 else f"{name} x{factor}" for name in hashes]  # another image, another latent
            latents = self._latents(network.enlarge(images), names)
            return network.rescale(latents.to(network.backbone.device)), ()

    def _read(self, images: Tensor, hashes: Sequence[str]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`VPD.read` behind the store, one entry per image."""
        network = self.network
        options = {key: network.options()[key] for key in ("latent_scale", "encoder_strides")}
        spec = {"kind": "encoder maps", "upsample": network.upsample, **options}
        keys = [feature_key(name, network.backbone.fingerprint, spec) for name in hashes]

        def compute(rows: list[int]) -> dict[str, Tensor]:
            latents, fine = network.read(images[rows])
            return _named((latents, *fine))

        latents, *fine = self._tuple(self._rows(keys, compute))
        return latents, tuple(fine)

    def _entries(self, given: Sequence[Any] | None, images: int) -> list[Any]:
        entries = self.network.conditioning.entries(given)
        if len(entries) not in (1, images):
            raise UserError(f"{len(entries)} texts were given for {images} images; expected one per image")
        return entries

    def _keys(self, hashes: Sequence[str], entries: list[Any]) -> list[str]:
        """Image, backbone, options and text name an entry."""
        network = self.network
        texts = [network.text_identity(entry) for entry in entries]
        options = network.options()
        return [
            feature_key(name, network.backbone.fingerprint, {**options, "text": texts[row % len(texts)]})
            for row, name in enumerate(hashes)
        ]

    def _tuple(self, maps: dict[str, Tensor]) -> tuple[Tensor, ...]:
        device = self.network.backbone.device
        return tuple(value.to(device, torch.float32) for value in maps.values())


def _named(pyramid: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"out{level}": value for level, value in enumerate(pyramid)}
