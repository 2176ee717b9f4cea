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

    Rows are laid out image by image and sample by sample, and cut into calls wherever one is full: near the end of a
    race most images have a few rows left, each with another number of candidates. The rows of a sample in one call
    share the text-free prefix.
    """
    some = [piece for piece in work if piece.rows]  # a stage without new samples has none
    flat = _errors(score, some, condition).cpu() if some else torch.empty(0)  # the only synchronisation of a round
    split = flat.split([piece.rows for piece in work])
    return [part.view(len(piece.timesteps), len(piece.candidates)) for part, piece in zip(split, work, strict=True)]


def _errors(score: DenoisingErrors, work: Sequence[Work], condition: Condition) -> Tensor:
    counts = [len(piece.timesteps) for piece in work]
    candidates = torch.tensor([len(piece.candidates) for piece in work]).repeat_interleave(torch.tensor(counts))
    return score.pairs(
        torch.cat([piece.latent.expand(n, -1, -1, -1) for piece, n in zip(work, counts, strict=True)]),
        torch.cat([piece.noise for piece in work]),
        torch.cat([piece.timesteps for piece in work]),
        condition,
        torch.arange(sum(counts)).repeat_interleave(candidates),
        torch.cat([piece.candidates.repeat(n) for piece, n in zip(work, counts, strict=True)]),
    )
