"""The three parts of a backbone (denoiser adapter, codec, conditioner) from loaded models, and its fingerprint.

The fingerprint names a backbone's numbers: it is the same on every machine, whatever its folder is called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from perception.backbones.conditioning.condition import Conditioner
from perception.backbones.conditioning.encoders import (
    ClassConditioner,
    ClipConditioner,
    FluxConditioner,
    PixArtConditioner,
    SD3Conditioner,
    check_vocabulary,
)
from perception.backbones.denoisers.base import Denoiser
from perception.backbones.denoisers.dit import DiTDenoiser, settle_time_embedding
from perception.backbones.denoisers.mmdit import FluxDenoiser, SD3Denoiser
from perception.backbones.denoisers.pixart import PixArtDenoiser
from perception.backbones.denoisers.unet import UNetDenoiser
from perception.backbones.loading.folder import ModelFolder
from perception.data.files import file_hash

_NOT_NUMBERS = ("_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype")


def identity(folder: ModelFolder, random_init_seed: int | None) -> str:
    """SHA-256 over configs, tokenizers, class names, schedule and the contents of the weight files (or the seed)."""
    digest = hashlib.sha256()
    for name, part in sorted(folder.models.items()):
        _add(digest, name, _canonical(part.config))
        for file in part.weights if random_init_seed is None else ():
            _add(digest, "weights", file_hash(file))
    for _, path in folder.tokenizers.values():
        for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
            _add(digest, file.name, file_hash(file))
    scheduler, schedule = folder.scheduler
    _add(digest, scheduler, _canonical(schedule))
    if folder.classes:
        _add(digest, "classes", json.dumps(sorted(folder.classes.items())))
    if folder.empty_is_zeros:
        _add(digest, "empty prompt", "zeros")
    _add(digest, "random_init_seed", str(random_init_seed))
    return digest.hexdigest()


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in config.items() if k not in _NOT_NUMBERS}, sort_keys=True)


def _add(digest: Any, name: str, value: str) -> None:
    digest.update(f"{name}\0{value}\0".encode())


@dataclass(frozen=True)
class Parts:
    """What is read from a model folder, loaded."""

    folder: ModelFolder
    models: Mapping[str, Any]  # component -> model
    tokenizers: Mapping[str, Any]  # component -> tokenizer

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders in order."""
        return {name: model for name, model in self.models.items() if name.startswith("text_encoder")}


def assemble(parts: Parts) -> tuple[Denoiser, Conditioner]:
    """The denoiser adapter and the conditioner of the folder's family. ValueError where text and tokens do not fit."""
    for name, tokenizer in parts.tokenizers.items():
        check_vocabulary(parts.models[name.replace("tokenizer", "text_encoder")], tokenizer)
    return _ASSEMBLERS[parts.folder.family.name](parts)


def _unet(parts: Parts) -> tuple[Denoiser, Conditioner]:
    conditioner = ClipConditioner(parts.encoders, parts.tokenizers, empty_is_zeros=parts.folder.empty_is_zeros)
    return UNetDenoiser(parts.models["unet"]), conditioner


def _dit(parts: Parts) -> tuple[Denoiser, Conditioner]:
    transformer = parts.models["transformer"]
    settle_time_embedding(transformer, parts.folder.models["transformer"].config.get("downscale_freq_shift"))
    return DiTDenoiser(transformer), ClassConditioner(transformer.config["num_embeds_ada_norm"], parts.folder.classes)


def _pixart(parts: Parts) -> tuple[Denoiser, Conditioner]:
    tokens = 300 if parts.folder.pipeline == "PixArtSigmaPipeline" else 120
    return PixArtDenoiser(parts.models["transformer"]), PixArtConditioner(parts.encoders, parts.tokenizers, tokens)


def _sd3(parts: Parts) -> tuple[Denoiser, Conditioner]:
    denoiser = SD3Denoiser(parts.models["transformer"])
    return denoiser, SD3Conditioner(parts.encoders, parts.tokenizers, denoiser.text_width)


def _flux(parts: Parts) -> tuple[Denoiser, Conditioner]:
    return FluxDenoiser(parts.models["transformer"]), FluxConditioner(parts.encoders, parts.tokenizers, 512)


_ASSEMBLERS: Mapping[str, Callable[[Parts], tuple[Denoiser, Conditioner]]] = {
    "unet": _unet,
    "dit": _dit,
    "pixart": _pixart,
    "sd3": _sd3,
    "flux": _flux,
}
