"""One name for a backbone's numbers: the same on every machine, whatever its folder is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

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
