"""What a public function was given in place of a tensor, an array or a picture, in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from perception.errors import UserError

_READ = "image_tensor(read_image(PATH))[None] of perception.data.images"


def check_tensors(**values: object) -> None:
    """UserError for the first argument, by name, that is no torch tensor: a path, a picture, None, ..."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            found, way = _described(value)
            raise UserError(f"{name} is {found}; expected a torch tensor: {way}")


def check_tensor_lists(**values: object) -> None:
    """UserError for the first argument, by name, that is no list of torch tensors (maps of a network, say)."""
    for name, value in values.items():
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name} is {_described(value)[0]}; expected a list of torch tensors, one per map")
        check_tensors(**{f"{name}[{number}]": entry for number, entry in enumerate(value)})


def check_arrays(**values: object) -> None:
    """UserError for the first argument, by name, that is no NumPy array."""
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            raise UserError(
                f"{name} is {_described(value)[0]}; expected a NumPy array: np.asarray makes one of a picture"
            )


def check_picture(image: object) -> None:
    """UserError unless `image` is a PIL image."""
    if not isinstance(image, Image.Image):
        raise UserError(
            f"image is {_described(image)[0]}; expected a PIL image: open a file with read_image(PATH) of "
            "perception.data.images, or use Image.fromarray"
        )


def check_kind(kind: type, way: str, **values: object) -> None:
    """UserError for the first argument, by name, that is no `kind`; `way` says how to get one."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise UserError(f"{name} is {_described(value)[0]}; expected a {kind.__name__}: {way}")


# type, what to call a value of it, and the way to a tensor
_KINDS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str], str], ...] = (
    (Tensor, lambda value: f"a torch tensor of shape {list(value.shape)}", ""),
    ((str, os.PathLike), lambda value: f"the text or path {str(value)!r}", f"read an image file with {_READ}"),
    (Image.Image, lambda value: "a PIL image", "image_tensor(image)[None] of perception.data.images makes one of it"),
    (np.ndarray, lambda value: "a NumPy array", "torch.from_numpy makes one of it; channels come before the rows"),
    (type(None), lambda value: "None", f"of an image file {_READ} makes one"),
    ((list, tuple), lambda value: f"a {type(value).__name__}", "join its entries with torch.stack"),
)


def _described(value: object) -> tuple[str, str]:
    """What a value is, and how to make a tensor of it."""
    for kinds, describe, way in _KINDS:
        if isinstance(value, kinds):
            return describe(value), way
    return f"of type {type(value).__name__}", "see the documentation of this function"
