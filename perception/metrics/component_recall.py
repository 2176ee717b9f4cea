"""Recall of objects by size: the share of connected components of a label map that a segmentor finds again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

from perception.checks import check_arrays
from perception.errors import UserError

AREAS = (64, 256, 1024, 4096)  # pixels, bounds of the buckets; 64: one latent cell of the SD family
OBJECTS = (
    "pole", "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip  # things and rare classes of Cityscapes
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True)
class ComponentRecall:
    """Components per class and bucket of area, and how many were recalled; states add up over images and processes.

    A component is an 8-connected region of one class. Buckets are [0, a1), [a1, a2), ..., [an, inf) pixels.
    """

    names: tuple[str, ...]  # classes looked at
    areas: tuple[int, ...]  # ascending bounds of the buckets, pixels
    recalled: np.ndarray  # int64 [classes, buckets]
    components: np.ndarray  # int64 [classes, buckets]

    @classmethod
    def empty(cls, names: Sequence[str], areas: Sequence[int] = AREAS) -> ComponentRecall:
        """The neutral element of the addition. Raises UserError for areas that do not ascend from above 0."""
        if list(areas) != sorted(set(areas)) or (areas and areas[0] < 1):
            raise UserError(
                f"the areas {', '.join(map(str, areas))} are no bounds of buckets; give them in rising order"
            )
        shape = (len(names), len(areas) + 1)
        return cls(tuple(names), tuple(areas), np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    @classmethod
    def of(
        cls,
        labels: np.ndarray,  # integer class ids [H, W]: what the image was conditioned on; 255 is no class
        prediction: np.ndarray,  # integer class ids [H, W]: what a segmentor sees in the image
        classes: Mapping[str, int],  # name -> id of the classes to look at
        areas: Sequence[int] = AREAS,
        share: float = 0.5,  # of a component's pixels that must be predicted as its class, at least
    ) -> ComponentRecall:
        """One image. Raises UserError when the shapes differ."""
        check_arrays(labels=labels, prediction=prediction)
        if labels.shape != prediction.shape or labels.ndim != 2:
            raise UserError(
                f"the prediction has shape {prediction.shape} but the label map {labels.shape};"
                " resize the prediction to the label map first"
            )
        state = cls.empty(tuple(classes), areas)
        for row, label in enumerate(classes.values()):
            numbers, _ = ndimage.label(labels == label, _EIGHT_NEIGHBOURS)
            sizes = np.bincount(numbers.reshape(-1))[1:]
            hits = np.bincount(numbers[prediction == label], minlength=len(sizes) + 1)[1:]
            buckets = np.searchsorted(areas, sizes, side="right")
            np.add.at(state.components[row], buckets, 1)
            np.add.at(state.recalled[row], buckets[hits >= share * sizes], 1)
        return state

    def __add__(self, other: ComponentRecall) -> ComponentRecall:
        if (self.names, self.areas) != (other.names, other.areas):
            raise UserError("recalls of other classes or areas cannot be added; measure both with the same ones")
        return ComponentRecall(
            self.names, self.areas, self.recalled + other.recalled, self.components + other.components
        )

    @property
    def buckets(self) -> tuple[str, ...]:
        """Names of the buckets: '<64', '64-255', ..., '>=4096'."""
        if not self.areas:
            return ("all",)
        inner = [f"{low}-{high - 1}" for low, high in pairwise(self.areas)]
        return (f"<{self.areas[0]}", *inner, f">={self.areas[-1]}")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: the bounds; per class the counts and the recall by bucket (None where there is no component)."""
        rows = zip(self.names, self.recalled.tolist(), self.components.tolist(), strict=True)
        return {
            "areas": list(self.areas),
            "classes": {
                name: {
                    "recalled": found,
                    "components": total,
                    "recall": [round(f / n, 4) if n else None for f, n in zip(found, total, strict=True)],
                }
                for name, found, total in rows
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ComponentRecall:
        """The state that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        rows, areas = document["classes"], tuple(map(int, document["areas"]))
        shape = (len(rows), len(areas) + 1)
        recalled = np.array([row["recalled"] for row in rows.values()], np.int64).reshape(shape)
        components = np.array([row["components"] for row in rows.values()], np.int64).reshape(shape)
        return cls(tuple(rows), areas, recalled, components)

    def table(self, title: str) -> str:
        """A plain table: recall in percent and the number of components, per class and bucket of area."""
        width = max(map(len, (*self.names, "class")))
        lines = [title, f"{'class':<{width}}" + "".join(f"{name:>16}" for name in self.buckets)]
        for name, found, total in zip(self.names, self.recalled, self.components, strict=True):
            cells = (f"{100 * f / n:.1f} % of {n}" if n else "-" for f, n in zip(found, total, strict=True))
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        return "\n".join(lines)
