"""One round of many races: the samples of several images in as few and as full denoiser calls as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perception.backbones import Condition
from perception.classification.scoring import DenoisingErrors


@dataclass(frozen=True)
class Work:
    """What one image asks for: every one of its K candidates on each of its n samples."""

    latent: Tensor  # [C, h, w] clean
    noise: Tensor  # [n, C, h, w]
    timesteps: Tensor  # int64 [n], on the CPU
    candidates: Tensor  # int64 [K], rows of the condition, on the CPU

    @property
    def rows(self) -> int:
        """Denoiser evaluations."""
        return len(self.timesteps) * len(self.candidates)

    def part(self, samples: slice) -> Work:
        """All candidates on some of the samples."""
        return replace(self, noise=self.noise[samples], timesteps=self.timesteps[samples])


_Part = tuple[int, Work]  # the number of a piece of work, and some of its samples


def score_together(score: DenoisingErrors, work: Sequence[Work], condition: Condition) -> list[Tensor]:
    """Errors [n, K] of each piece of work, float32 on the CPU.

    Images with equally many candidates fill denoiser calls with whole samples, whose rows share the text-free prefix.
    What is left, less than a call of each count, is laid out row by row where that saves calls, without the prefix:
    near the end of a race most images have a few rows left, each with another number of candidates.
    """
    found: list[list[Tensor]] = [[] for _ in work]
    for parts, ragged in _calls(work, score.rows):
        pieces = [piece for _, piece in parts]
        errors = _ragged(score, pieces, condition) if ragged else _even(score, pieces, condition)
        for (i, _), part in zip(parts, errors, strict=True):
            found[i].append(part.flatten())
    # the only synchronisation of a round; a stage without new samples has no part
    every = [part for parts in found for part in parts]
    flat = torch.cat(every).cpu() if every else torch.empty(0)
    split = flat.split([piece.rows for piece in work])
    return [part.view(len(piece.timesteps), len(piece.candidates)) for part, piece in zip(split, work, strict=True)]


def _calls(work: Sequence[Work], rows: int) -> list[tuple[list[_Part], bool]]:
    """What goes together, and whether row by row."""
    by_count: dict[int, list[_Part]] = {}
    for i, piece in enumerate(work):
        if piece.rows:
            by_count.setdefault(len(piece.candidates), []).append((i, piece))
    full, left = [], []
    for count, parts in by_count.items():
        samples = sum(len(piece.timesteps) for _, piece in parts)
        first, second = _cut(parts, samples - samples % max(1, rows // count))
        full.append(first)
        left.append(second)
    mixed = [part for parts in left for part in parts]
    if math.ceil(sum(piece.rows for _, piece in mixed) / rows) < sum(map(bool, left)):
        return [(parts, False) for parts in full if parts] + [(mixed, True)]
    return [(first + second, False) for first, second in zip(full, left, strict=True)]


def _cut(parts: Sequence[_Part], samples: int) -> tuple[list[_Part], list[_Part]]:
    """The first so many samples, and the others."""
    first, second = [], []
    for i, piece in parts:
        here = min(samples, len(piece.timesteps))
        samples -= here
        if here:
            first.append((i, piece.part(slice(here))))
        if here < len(piece.timesteps):
            second.append((i, piece.part(slice(here, None))))
    return first, second


def _even(score: DenoisingErrors, pieces: Sequence[Work], condition: Condition) -> Sequence[Tensor]:
    counts = [len(piece.timesteps) for piece in pieces]
    errors = score(
        torch.cat([piece.latent.expand(n, -1, -1, -1) for piece, n in zip(pieces, counts, strict=True)]),
        torch.cat([piece.noise for piece in pieces]),
        torch.cat([piece.timesteps for piece in pieces]),
        condition,
        torch.cat([piece.candidates.expand(n, -1) for piece, n in zip(pieces, counts, strict=True)]),
    )
    return errors.split(counts)


def _ragged(score: DenoisingErrors, pieces: Sequence[Work], condition: Condition) -> Sequence[Tensor]:
    sizes = [piece.rows for piece in pieces]
    errors = score(
        torch.cat([piece.latent.expand(rows, -1, -1, -1) for piece, rows in zip(pieces, sizes, strict=True)]),
        torch.cat([piece.noise.repeat_interleave(len(piece.candidates), 0) for piece in pieces]),
        torch.cat([piece.timesteps.repeat_interleave(len(piece.candidates)) for piece in pieces]),
        condition,
        torch.cat([piece.candidates.repeat(len(piece.timesteps)) for piece in pieces])[:, None],
    )
    return errors.split(sizes)
