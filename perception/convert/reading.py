"""Pickled checkpoints as plain tensors. Nothing in the file is ever executed."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from perception.data.inputs import UNREADABLE
from perception.errors import UserError

_CONTAINERS = ("state_dict", "model")  # where mmcv and the reference's own scripts put the weights
_HARMLESS: list[Any] = [argparse.Namespace]  # the options of the training run, kept beside the weights


@dataclass(frozen=True)
class Checkpoint:
    """The content of one .pth or .pt file."""

    path: Path
    weights: dict[str, Tensor]  # on the CPU, without the prefix "module."
    meta: Mapping[str, Any]  # what mmcv notes beside them: CLASSES, PALETTE, ...


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by `torch.save` with the restricted unpickler.

    Raises:
        UserError: no such file, a damaged one, pickled code, or no state dict in it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; name the checkpoint file (.pth or .pt) that was downloaded")
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a dictionary of weights")
    inside = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    odd = sorted(str(key) for key, value in inside.items() if not (isinstance(key, str) and isinstance(value, Tensor)))
    if odd or not inside:
        raise UserError(
            f"{path} holds no weights under {' or '.join(_CONTAINERS)}, and what is no tensor among its own entries:"
            f" {', '.join(odd) or 'it is empty'}; expected a state dict"
        )
    short = [str(key) for key, value in inside.items() if value.numel() * value.element_size() > _stored(value)]
    if short:
        raise UserError(
            f"{path} holds fewer numbers than the shapes of {', '.join(sorted(short)[:8])} say; download it again"
        )
    meta = content.get("meta")
    return Checkpoint(path, _without_wrapper(inside), meta if isinstance(meta, Mapping) else {})


def _load(path: Path) -> Any:
    try:
        with safe_globals(_HARMLESS):
            mapped = zipfile.is_zipfile(path)  # the old format cannot be mapped into memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UNREADABLE as error:
        code = _pickled_code(path)
        if code:
            raise UserError(
                f"{path} holds pickled code ({', '.join(code)}), which is never run here; "
                "save the state dict alone, tensors by name, with torch.save"
            ) from error
        raise UserError(
            f"{path} is truncated or no PyTorch checkpoint ({path.stat().st_size} bytes); download it again"
        ) from error


def _pickled_code(path: Path) -> list[str]:
    """Names that unpickling would call, found without unpickling; none in a file that cannot be scanned."""
    try:
        with safe_globals(_HARMLESS):
            return sorted(get_unsafe_globals_in_checkpoint(path))
    except UNREADABLE:
        return []


def _stored(tensor: Tensor) -> int:
    """Bytes behind a tensor, which may repeat them; 0 for a kind of tensor that has no plain storage."""
    return tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else 0


def _without_wrapper(weights: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Names as of the bare network: DistributedDataParallel puts "module." before all of them."""
    weights = {str(name): value for name, value in weights.items()}
    wrapped = all(name.startswith("module.") for name in weights)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in weights.items()}
