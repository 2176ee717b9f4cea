"""The interface of all conditionings (rows of tokens for cross-attention), and VPD's text adapter."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.checks import check_tensors
from perception.data.images import content_hash
from perception.errors import UserError


class Conditioning(nn.Module, ABC):
    """Text tokens for the denoiser, one row per image, or one row for all images.

    A conditioning owns what is specific to a task (a table, learned tokens); the text encoder stays with the backbone.
    """

    per_image: ClassVar[bool] = False  # whether `given` must hold one entry per image
    tokens: int  # K, tokens per row: the channels of an attention map
    width: int  # D, channels per token

    @abstractmethod
    def forward(self, given: Sequence[Any] | None = None) -> Tensor:
        """Tokens float32 [B, K, D], one row per entry of `given`, or [1, K, D] where all images share one text."""

    def entries(self, given: Sequence[Any] | None = None) -> list[Any]:
        """What each row of `forward(given)` stands for: [None] where all images share one text."""
        return [None]

    @abstractmethod
    def identity(self, given: Any = None) -> str:
        """Hex digest of one row's value: equal rows have equal names in every session, for store keys.

        Args:
            given: one entry of what `forward` takes.
        """


def version_of(tensor: Tensor) -> tuple[int, int]:
    """Changes whenever the tensor is written in place (an optimizer's step, load_state_dict) or moved."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


class Digest:
    """SHA-256 over tensors, computed again only when one of them has changed."""

    def __init__(self) -> None:
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._value = ""

    def __call__(self, *tensors: Tensor) -> str:
        """Hex digest of shapes and values."""
        versions = tuple(version_of(tensor) for tensor in tensors)
        if versions != self._seen:
            self._value = text_identity(*(content_hash(tensor.detach().float()) for tensor in tensors))
            self._seen = versions
        return self._value


def text_identity(*parts: object) -> str:
    """SHA-256 over strings and numbers."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def check_table(table: Tensor) -> Tensor:
    """A float32 copy of a table of text rows [K, D].

    Raises:
        UserError: another shape, no row, or values that are not finite.
    """
    if table.dim() != 2 or 0 in table.shape:
        raise UserError(
            f"the text table has the shape {list(table.shape)}; expected [rows, width], one row per class: "
            "make it with class_table(backbone, names)"
        )
    if not torch.isfinite(table).all():
        raise UserError("the text table holds values that are not finite; make it again with class_table")
    return table.detach().to(torch.float32).clone()


class TextAdapter(nn.Module):
    """t' = t + gamma * fc(t), fc = Linear, GELU (erf), Linear (Zhao et al. 2023, arXiv 2303.02153, section 3.2).

    gamma starts at 1e-4 in every channel, so a new adapter hardly changes the text.
    """

    def __init__(
        self,
        width: int,  # channels of the text tokens
        hidden: int | None = None,  # channels between the two layers; None: `width`
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("hidden", width if hidden is None else hidden)):
            if value < 1:
                raise UserError(f"the {name} of the text adapter is {value}; expected at least 1")
        self.width = width
        self.fc = nn.Sequential(nn.Linear(width, hidden or width), nn.GELU(), nn.Linear(hidden or width, width))
        self.gamma = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Text tokens [..., D] -> corrected tokens [..., D]."""
        check_tensors(tokens=tokens)
        return tokens + self.gamma * self.fc(tokens)
