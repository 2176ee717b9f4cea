"""Mean cross-entropy of every class over labelled pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.checks import check_tensors
from perception.errors import UserError


@dataclass(frozen=True)
class ClassLoss:
    """Sums of per-pixel losses by the class that the label map says; states add up over images and processes.

    Losses are in nats. A class without a pixel has the mean NaN.
    """

    sums: Tensor  # float64 [K]
    pixels: Tensor  # int64 [K]

    @classmethod
    def empty(cls, num_classes: int) -> ClassLoss:
        """The neutral element of the addition, for `num_classes` classes."""
        return cls(torch.zeros(num_classes, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.int64))

    @classmethod
    def of(cls, loss: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> ClassLoss:
        """The sums of one image or batch.

        Args:
            loss: per pixel, any shape.
            target: integer class ids of the same shape; pixels equal to `ignore_index` are left out.
        Raises:
            UserError: shapes differ, or an id is out of range.
        """
        check_tensors(loss=loss, target=target)
        if loss.shape != target.shape:
            raise UserError(f"losses of shape {tuple(loss.shape)} do not fit a label map of {tuple(target.shape)}")
        kept = target != ignore_index
        ids = target[kept].long().cpu()
        if ids.numel() and int(ids.max()) >= num_classes:
            raise UserError(
                f"the label map holds the class id {int(ids.max())}, but there are {num_classes} classes:"
                f" use 0..{num_classes - 1}, and {ignore_index} for pixels to ignore"
            )
        sums = torch.bincount(ids, loss[kept].double().cpu(), minlength=num_classes)
        return cls(sums, torch.bincount(ids, minlength=num_classes))

    def __add__(self, other: ClassLoss) -> ClassLoss:
        return ClassLoss(self.sums + other.sums, self.pixels + other.pixels)

    @property
    def means(self) -> Tensor:
        """Mean loss of every class, float64 [K]."""
        return self.sums / self.pixels

    @property
    def mean(self) -> float:
        """Mean loss over all labelled pixels."""
        return float(self.sums.sum() / self.pixels.sum())

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Class name -> `sum`, `pixels` and `mean`, for the classes that occur."""
        rows = zip(names, self.sums.tolist(), self.pixels.tolist(), strict=True)
        return {name: {"sum": total, "pixels": n, "mean": total / n} for name, total, n in rows if n}

    @classmethod
    def from_json(cls, rows: Mapping[str, Any], names: Sequence[str]) -> ClassLoss:
        """The state that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if unknown := [name for name in rows if name not in names]:
            raise ValueError(f"there is no class {unknown[0]!r}")
        sums = [float(rows[name]["sum"]) if name in rows else 0.0 for name in names]
        pixels = [int(rows[name]["pixels"]) if name in rows else 0 for name in names]
        return cls(torch.tensor(sums, dtype=torch.float64), torch.tensor(pixels))
