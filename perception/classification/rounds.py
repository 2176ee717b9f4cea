"""One round of many races: the samples of several images in as few and as full denoiser calls as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def score_together(score: DenoisingErrors, work: Sequence[Work], condition: Condition) -> list[Tensor]:
    """Errors [n, K] of each piece of work, float32 on the CPU.

    Images with equally many candidates share denoiser calls, and the text-free prefix within a sample. Those of a
    count that would leave a call half empty are laid out row by row into common calls, without that prefix: near the
    end of a race most images have a few rows left, each with another number of candidates.
    """
    parts: dict[int, Tensor] = {}
    for group, ragged in _groups(work, score.rows):
        pieces = [work[i] for i in group]
        errors = _ragged(score, pieces, condition) if ragged else _even(score, pieces, condition)
        parts.update((i, part.flatten()) for i, part in zip(group, errors, strict=True))
    # the only synchronisation of a round; a stage without new samples has no part
    flat = torch.cat([parts[i] for i in sorted(parts)]).cpu() if parts else torch.empty(0)
    split = flat.split([piece.rows for piece in work])
    return [part.view(len(piece.timesteps), len(piece.candidates)) for part, piece in zip(split, work, strict=True)]


def _groups(work: Sequence[Work], rows: int) -> list[tuple[list[int], bool]]:
    """Numbers of the pieces that share calls, and whether row by row."""
    by_count: dict[int, list[int]] = {}
    for i, piece in enumerate(work):
        if piece.rows:
            by_count.setdefault(len(piece.candidates), []).append(i)
    small = [group for group in by_count.values() if sum(work[i].rows for i in group) < rows]
    if len(small) < 2:
        return [(group, False) for group in by_count.values()]
    full = [(group, False) for group in by_count.values() if group not in small]
    return [*full, ([i for group in small for i in group], True)]


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
