"""The extract job: writes features of images to a store, and one manifest line with the store key per image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.image_size import image_size
from perception.backbones.spec import FeatureSpec
from perception.backbones.stored import CachedFeatures, check_spec
from perception.data.documents import conforms
from perception.data.images import content_hash, image_tensor, read_image
from perception.data.store import TensorStore
from perception.errors import UserError
from perception.jobs.contract import Outcome
from perception.jobs.items import Item

_RECORD = {"image_hash": str, "key": str, "latent_key": str, "shapes": {str: [int]}}


class Sample(NamedTuple):
    """One prepared image."""

    pixels: torch.Tensor  # [3, H, W] in [0, 1]
    hash: str  # of the 8-bit pixels [3, H, W]


class ExtractJob:
    """Predictor of the extract job (see perception.jobs.contract.JobPredictor).

    The manifest record of an image holds `key` and `latent_key` of the store, `image_hash`, and the shape of each map.

    Raises:
        UserError: at once for unknown taps, timesteps outside the schedule, and sizes the backbone cannot take.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        spec: FeatureSpec,
        store: Path,  # folder of the store, created if there is none
        store_dtype: torch.dtype = torch.float16,
        size: int
        | tuple[int, int]
        | None = None,  # pixels, side or (height, width); None: what the model was trained at
        fit: Literal["crop", "squash"] = "crop",  # keep the aspect ratio and cut the centre, or distort
    ) -> None:
        self.size = image_size(backbone, size)
        self.fit: Literal["crop", "squash"] = fit
        check_spec(spec, backbone)  # before a store is created
        self.features = CachedFeatures(backbone, spec, TensorStore(store, dtype=store_dtype))
        self.options: dict[str, Any] = {**spec.to_json(), "size": list(self.size), "fit": fit}
        text = json.dumps([backbone.fingerprint, str(store_dtype), self.options], sort_keys=True)
        self.revisions = backbone.revisions
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def prepare(self, item: Item) -> Sample:
        """Read and resize one file."""
        if item.path is None:
            raise UserError(f"{item.id} has no image file; extract takes images.")
        pixels = image_tensor(read_image(item.path), self.size, fit=self.fit)
        return Sample(pixels, content_hash(pixels.mul(255).round().byte()))

    def __call__(self, batch: Sequence[Sample]) -> list[Outcome]:
        """Features of prepared images into the store; one record each."""
        hashes = [sample.hash for sample in batch]
        maps = self.features(torch.stack([sample.pixels for sample in batch]), hashes)
        shapes = {tap: list(value.shape[1:]) for tap, value in maps.items()}
        return [Outcome(self._record(image_hash, shapes)) for image_hash in hashes]

    def flush(self) -> None:
        """Put what was computed on disk."""
        self.features.store.flush()

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes."""
        return conforms(record, _RECORD)

    def still_valid(self, record: dict[str, Any]) -> bool:
        """True while the store has what the record points to."""
        return record["key"] in self.features.store

    def _record(self, image_hash: str, shapes: dict[str, list[int]]) -> dict[str, Any]:
        return {
            "image_hash": image_hash,
            "key": self.features.key(image_hash),
            "latent_key": self.features.latent_key(image_hash),
            "shapes": shapes,
        }
