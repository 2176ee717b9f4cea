"""Rare class sampling: draws a label map and the class to generate for (Hoyer et al. 2022, eq. 10-11)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.errors import UserError
from perception.generation.prompts import Draws

_IDLE_DRAWS = 100_000  # draws without a new file after which the rest counts as out of reach


@dataclass(frozen=True)
class LabelCounts:
    """Pixels per class of one label map."""

    file: str
    pixels: Mapping[int, int]  # class id -> pixels, only classes that are there


def read_statistics(rows: Iterable[Mapping[str, Any]]) -> list[LabelCounts]:
    """The rows of a `sample_class_stats.json`: {"<class id>": pixels, ..., "file": path}."""
    return [
        LabelCounts(os.fspath(row["file"]), {int(k): int(v) for k, v in row.items() if k != "file"}) for row in rows
    ]


def statistics_rows(statistics: Iterable[LabelCounts]) -> list[dict[str, Any]]:
    """What `read_statistics` reads."""
    return [{"file": row.file, **{str(label): count for label, count in row.pixels.items()}} for row in statistics]


def class_probabilities(
    statistics: Iterable[LabelCounts], temperature: float = 0.01
) -> tuple[tuple[int, ...], np.ndarray]:
    """P(c) = softmax_c((1 - f_c) / T), f_c the class's share of all labelled pixels.

    Returns:
        Classes by ascending number of pixels (those that never occur are absent), and their probabilities, float32.
    """
    totals: dict[int, int] = {}
    for row in statistics:
        for label, count in row.pixels.items():
            totals[label] = totals.get(label, 0) + count
    if not 0 < temperature < math.inf or not sum(totals.values()):
        raise UserError(
            "rare class sampling needs a finite temperature above 0 and labelled pixels; the temperature is "
            f"{temperature} and there are {sum(totals.values())} pixels"
        )
    classes = tuple(sorted(totals, key=lambda label: totals[label]))
    share = np.array([totals[label] for label in classes], np.float32)
    scores = (1 - share / share.sum()) / np.float32(temperature)
    weights = np.exp(scores - scores.max())
    return classes, weights / weights.sum()


class RareClassSampler:
    """Draws (file, class): a class by its probability, then uniformly a file that has enough of it.

    Classes that no file has enough of are left out, and the other probabilities scaled up.

    Raises:
        UserError: when no class is left.
    """

    def __init__(
        self,
        statistics: Sequence[LabelCounts],
        temperature: float = 0.01,
        min_pixels: int = 3000,  # a file qualifies for a class with more pixels than this
    ) -> None:
        classes, probabilities = class_probabilities(statistics, temperature)
        self.files = {c: [row.file for row in statistics if row.pixels.get(c, 0) > min_pixels] for c in classes}
        usable = np.array([bool(self.files[c]) for c in classes])
        if not usable.any():
            raise UserError(
                f"no label map has more than {min_pixels} pixels of any class; lower the least number of pixels"
            )
        self.classes = [c for c, use in zip(classes, usable, strict=True) if use]
        self.probabilities = probabilities if usable.all() else probabilities[usable] / probabilities[usable].sum()

    def __call__(self, rng: Draws) -> tuple[str, int]:
        """One file and the class it was drawn for."""
        label = self.classes[int(rng.choice(len(self.classes), p=self.probabilities))]
        files = self.files[label]
        return files[int(rng.choice(len(files)))], label

    def select(self, count: int, rng: Draws) -> list[tuple[str, int]]:
        """`count` different files, each with the class it was first drawn for.

        Raises:
            UserError: when fewer files can be drawn at all.
        """
        possible = len({file for files in self.files.values() for file in files})
        chosen: dict[str, int] = {}
        idle = 0
        while len(chosen) < count:
            if count > possible or idle > _IDLE_DRAWS:
                raise UserError(
                    f"{count} different label maps were asked for, but only {len(chosen) or possible} can be drawn; "
                    "ask for fewer, lower the least number of pixels, or raise the temperature"
                )
            file, label = self(rng)
            idle = idle + 1 if file in chosen else 0
            chosen.setdefault(file, label)
        return list(chosen.items())
