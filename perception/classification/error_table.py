"""The errors of one image: candidates x samples, filled block by block while candidates drop out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Margin:
    """How far the winner is ahead of a rival, on the samples both have seen."""

    rival: int  # candidate number
    mean: float  # mean of error(rival) - error(winner); positive: the winner is better
    standard_error: float  # sd / sqrt(n) of the paired differences; nan for a single sample
    samples: int


class ErrorTable:
    """Paired errors of all candidates of one image.

    Column k belongs to the k-th sample drawn. Candidates leave for good, so candidate c has errors in its first
    `counts[c]` columns and NaN behind them, and any two candidates share their first min(counts) samples.
    """

    def __init__(
        self,
        candidates: int,
        samples: int,
        classes: Sequence[int] | None = None,  # whom each candidate speaks for; None: every one for a class of its own
        costs: Sequence[int] | None = None,  # denoiser rows of one sample of each candidate; None: one
        weights: Tensor | None = None,  # [N] of the samples in every mean and difference; None: 1
    ) -> None:
        self.errors = torch.full((candidates, samples), float("nan"))  # [C, N] float32, on the CPU, as measured
        self.weights = torch.ones(samples, dtype=torch.float64) if weights is None else weights.double()
        self.counts = [0] * candidates
        self.classes = tuple(range(candidates) if classes is None else classes)
        self.costs = (1,) * candidates if costs is None else tuple(costs)
        self.alive: tuple[int, ...] = tuple(range(candidates))
        self.history: list[tuple[int, ...]] = []  # alive candidates of every block evaluated

    @property
    def evaluations(self) -> int:
        """Denoiser rows spent."""
        return sum(count * cost for count, cost in zip(self.counts, self.costs, strict=True))

    def add(self, errors: Tensor) -> None:
        """Append one block: errors [len(alive), n], rows in the order of `alive`."""
        start = self.counts[self.alive[0]]
        columns = slice(start, start + errors.shape[1])
        self.errors[list(self.alive), columns] = errors.detach().to("cpu", torch.float32)
        for candidate in self.alive:
            self.counts[candidate] = columns.stop
        self.history.append(self.alive)

    def row(self, candidate: int) -> Tensor:
        """All errors of one candidate so far, in the order of evaluation. [counts[candidate]]."""
        return self.errors[candidate, : self.counts[candidate]]

    def means(self) -> Tensor:
        """Mean error per candidate over what it has seen, summed in float64; NaN before its first sample. [C]."""
        return self._weighted(slice(None), slice(None)).nanmean(dim=1)

    def ranked(self, candidates: Sequence[int]) -> tuple[int, ...]:
        """Sort candidates by their mean error, best first; ties keep the given order."""
        seen = slice(max((self.counts[c] for c in candidates), default=0))
        means = self._weighted(list(candidates), seen).nanmean(dim=1).tolist()
        return tuple(c for _, c in sorted(zip(means, candidates, strict=True), key=lambda pair: pair[0]))

    def difference(self, candidate: int, other: int) -> Tensor:
        """Paired error(candidate) - error(other) on their common samples, float64. [min(counts)]."""
        common = self._weighted([candidate, other], slice(min(self.counts[candidate], self.counts[other])))
        return common[0] - common[1]

    def gaps(self, leader: int, others: Sequence[int]) -> Tensor:
        """Paired error(other) - error(leader) of candidates that have seen as much as it, float64. [R, n]."""
        seen = self._weighted([leader, *others], slice(self.counts[leader]))
        return seen[1:] - seen[:1]

    def margin(self, winner: int, rivals: Sequence[int]) -> Margin | None:
        """Compare the winner with its runner-up; None when there is no rival.

        The runner-up is the rival with the smallest mean error among those that have seen the most samples: means of
        candidates that left at different times rest on different timesteps and cannot be compared.
        """
        if not rivals:
            return None
        most = max(self.counts[c] for c in rivals)
        rival = self.ranked([c for c in rivals if self.counts[c] == most])[0]
        gap = self.difference(rival, winner)  # [n]
        error = (gap.std() / len(gap) ** 0.5).item() if len(gap) > 1 else float("nan")
        return Margin(rival, gap.mean().item(), error, len(gap))

    def _weighted(self, rows: slice | list[int], samples: slice) -> Tensor:
        return self.errors[:, samples][rows].double() * self.weights[samples]  # [R, n]
