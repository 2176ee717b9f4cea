"""Racing: candidates are compared over one well-spread grid, and whoever is surely behind the leader leaves.

All candidates see the same samples in the same order (`race_blocks`) with common random numbers. Decisions grow rarer
as samples add up: a long duel goes on in few full denoiser calls, and is looked at less often. A race that goes to the
end has seen the whole uniform grid, and the mean decides. It also ends when only candidates of one class are left
(several prompts of a class need not beat each other), or when the budget has no room for another block. Candidates
whose errors equal the leader's in every sample leave: they repeat it, and the one given first stands for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from perception.classification.error_table import ErrorTable
from perception.classification.stopping.schedules import Block, Decision, race_blocks
from perception.errors import UserError


def t_statistics(gaps: Tensor) -> Tensor:
    """mean / (sd / sqrt(n)) of each row, float64 [R]. Rows without spread: +-inf, and 0 where every gap is 0.

    gaps [R, n], n >= 2.
    """
    mean, error = gaps.mean(dim=1), gaps.std(dim=1) / math.sqrt(gaps.shape[1])
    return torch.where(mean == 0, torch.zeros_like(mean), mean / error)


def identical(gaps: Tensor) -> Tensor:
    """Rows without any difference: a candidate that repeats the leader. bool [R]."""
    return (gaps == 0).all(dim=1)


def t_quantile(probability: float, samples: int) -> float:
    """Quantile of Student's t with samples - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(samples - 1, probability))


COMPLETE, SEPARATED, SPENT = "grid completed", "one class left", "budget spent"
FEWEST = 4  # samples that are judged: Student's t allows for a spread guessed from few


@dataclass(frozen=True)
class Racing:
    """Drop a candidate that the whole grid would hardly prefer to the leader (paired t-test on a finite grid).

    With n of M samples seen, the t statistic the pair will have on the whole grid is normal around t_n sqrt(M/n) with
    variance M/n - 1. A rival leaves when the probability that it ends below -doubt is less than 1 - confidence, i.e.
    when t_n > q sqrt(1 - n/M) - doubt sqrt(n/M), q the quantile of Student's t with n - 1 degrees of freedom. With
    doubt 0 any other decision than the whole grid's counts as an error; with 1.645 only one that the grid itself
    would be sure of (one-sided 5 %), which ends the duels that no grid decides.

    The grid of M samples is a finite population: after n of them its mean is known up to a variance of
    s^2/n (1 - n/M) (Cochran, Sampling Techniques, 1977, chapter 2), and exactly at n = M.

    The confidence is that of one comparison at one look, not of the whole race: looking again after each block and
    having many rivals err more often. `tools/replay.py` measures how often.

    Raises UserError for numbers out of range.
    """

    samples: int = 250  # evenly spaced timesteps of the whole grid
    trials: int = 1  # noises per timestep: the grid is walked once per trial
    budget: int | None = None  # most denoiser evaluations per image; None: as many as the whole grid takes
    first: int = FEWEST  # samples of every candidate before the first decision
    block: int = 2  # samples between decisions, at least
    growth: float = 0.2  # or this share of the samples seen, if that is more: looks in geometric progression
    confidence: float = 0.99  # of each comparison
    doubt: float = 1.645  # standard errors of the whole grid's own decision
    name = "racing"

    def __post_init__(self) -> None:
        if min(self.samples, self.trials, self.block) < 1:
            raise UserError(f"samples {self.samples}, trials {self.trials} and block {self.block} must be 1 or more")
        if self.first < FEWEST:
            raise UserError(f"a first block of {self.first} samples is too short to judge; give {FEWEST} or more")
        if not 0 <= self.growth < math.inf:
            raise UserError(f"blocks that grow by {self.growth} of the samples seen make no race; give 0 or more")
        if not 0.5 < self.confidence < 1:
            raise UserError(f"a confidence of {self.confidence} is not between 0.5 and 1; give something like 0.99")
        if self.doubt < 0:
            raise UserError(f"a doubt of {self.doubt} standard errors is negative; give 0 or more")

    @property
    def total(self) -> int:
        """Samples of the whole grid."""
        return self.samples * self.trials

    def ends(self) -> list[int]:
        """Samples drawn up to the end of each block."""
        return list(_growing(self.first, self.block, self.growth, self.total))

    def blocks(self, num_train_timesteps: int) -> tuple[Block, ...]:
        """The grid in spread order, cut at `ends`."""
        return race_blocks(self.samples, self.trials, num_train_timesteps, self.ends())

    def most_rows(self, costs: Sequence[int]) -> tuple[int, ...]:
        """All candidates, as far as the budget reaches. Raises UserError when it does not cover the first block."""
        ends, every = self.ends(), sum(costs)
        if self.budget is not None and self.budget < every * ends[0]:
            raise UserError(
                f"a budget of {self.budget} evaluations per image is less than the first {ends[0]} samples of "
                f"{len(costs)} candidates take; give {every * ends[0]} or more"
            )
        left, rows = self.budget or every * self.total, []
        for size in _sizes(ends):
            rows.append(min(every, left // size))
            left -= rows[-1] * size
        return tuple(rows)

    def decide(self, block: int, table: ErrorTable) -> Decision:
        """Drop whoever is behind the leader; say whether the race is over."""
        alive = self._survivors(table, self.ends()[block])
        return Decision(alive, self._stop(block, alive, table))

    def behind(self, gaps: Tensor) -> Tensor:
        """Which rivals leave, by their gaps [R, n] to the leader on the samples seen. bool [R]."""
        n = gaps.shape[1]
        seen = n / self.total
        limit = t_quantile(self.confidence, n) * math.sqrt(1 - seen) - self.doubt * math.sqrt(seen)
        return t_statistics(gaps) > max(limit, 0.0)

    def _survivors(self, table: ErrorTable, n: int) -> tuple[int, ...]:
        leader, *others = table.ranked(table.alive)
        if not others or n < FEWEST or n == self.total:  # on the whole grid the mean decides
            return (leader, *others)
        gaps = table.gaps(leader, others)
        leave = (self.behind(gaps) | identical(gaps)).tolist()
        return (leader, *(c for c, left in zip(others, leave, strict=True) if not left))

    def _stop(self, block: int, alive: Sequence[int], table: ErrorTable) -> str | None:
        if len({table.classes[c] for c in alive}) == 1:
            return SEPARATED
        ends = self.ends()
        if block + 1 == len(ends):
            return COMPLETE
        if self.budget is None:
            return None
        cost = (ends[block + 1] - ends[block]) * sum(table.costs[c] for c in alive)
        return SPENT if table.evaluations + cost > self.budget else None


@lru_cache
def _growing(first: int, block: int, growth: float, total: int) -> tuple[int, ...]:
    """See `Racing`; asked for by every image after every block."""
    ends = [min(first, total)]
    while ends[-1] < total:
        ends.append(min(ends[-1] + max(block, int(ends[-1] * growth)), total))
    return tuple(ends)


def _sizes(ends: Sequence[int]) -> list[int]:
    return [end - start for start, end in pairwise([0, *ends])]
