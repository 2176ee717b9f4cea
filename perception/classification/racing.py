"""Rules that stop early: candidates race over one well-spread grid, and whoever is surely behind the leader leaves.

Every racing rule draws the same samples in the same order (`race_blocks`) with common random numbers, so rules differ
in when they stop and never in what they see. Decisions grow rarer as samples add up: a long duel goes on in few full
denoiser calls, and is looked at less often. A race that goes to the end has seen the whole uniform grid, and the mean
decides. It also ends when only candidates of one class are left (several prompts of a class need not beat each other),
or when the budget has no room for another block. Candidates whose errors equal the leader's in every sample leave: they
repeat it, and the one given first stands for both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from perception.classification.schedule import Block, Decision, check_group, most_expensive, race_blocks
from perception.classification.statistics import identical, mixture_bound, normal_scores, t_quantile, t_statistics
from perception.classification.table import ErrorTable
from perception.errors import UserError

COMPLETE, SEPARATED, SPENT = "grid completed", "one class left", "budget spent"


@dataclass(frozen=True)
class RacingRule(ABC):
    """What all racing rules share; subclasses say who is `behind`. Raises UserError for numbers out of range."""

    samples: int = 250  # evenly spaced timesteps of the whole grid
    trials: int = 1  # noises per timestep: the grid is walked once per trial
    budget: int | None = None  # most denoiser evaluations per image; None: as many as the whole grid takes
    first: int = 8  # samples of every candidate before the first decision
    block: int = 2  # samples between decisions, at least
    growth: float = 0.2  # or this share of the samples seen, if that is more: looks in geometric progression
    group: int = field(default=1, repr=False)  # trials that count as one sample: 2 for antithetic noise
    fewest: ClassVar[int] = 8  # samples that are judged: the spread of fewer is a guess

    def __post_init__(self) -> None:
        if min(self.samples, self.trials, self.block) < 1:
            raise UserError(f"samples {self.samples}, trials {self.trials} and block {self.block} must be 1 or more")
        if self.first < self.fewest:
            raise UserError(f"a first block of {self.first} samples is too short to judge; give {self.fewest} or more")
        if not 0 <= self.growth < math.inf:
            raise UserError(f"blocks that grow by {self.growth} of the samples seen make no race; give 0 or more")
        check_group(self.group, self.trials, self.first, self.block)

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name as given to `--method`."""

    @property
    def total(self) -> int:
        """Samples of the whole grid."""
        return self.samples * self.trials

    def ends(self) -> list[int]:
        """Samples drawn up to the end of each block."""
        return list(_growing(self.first, self.block, self.growth, self.group, self.total))

    def blocks(self, num_train_timesteps: int) -> tuple[Block, ...]:
        """The grid in spread order, cut at `ends`."""
        return race_blocks(self.samples, self.trials, num_train_timesteps, self.ends(), self.group)

    def most_rows(self, costs: Sequence[int]) -> tuple[int, ...]:
        """All candidates, as far as the budget reaches. Raises UserError when it does not cover the first block."""
        ends, every = self.ends(), sum(costs)
        if self.budget is not None and self.budget < every * ends[0]:
            raise UserError(
                f"a budget of {self.budget} evaluations per image is less than the first {ends[0]} samples of "
                f"{len(costs)} candidates take; give {every * ends[0]} or more"
            )
        left, rows = self.budget or every * self.total, []
        for number, size in enumerate(_sizes(ends)):
            rows.append(min(most_expensive(costs, self.most_kept(number, len(costs))), left // size))
            left -= rows[-1] * size
        return tuple(rows)

    def most_kept(self, block: int, candidates: int) -> int:
        """How many candidates may reach a block: all of them."""
        return candidates

    def decide(self, block: int, table: ErrorTable) -> Decision:
        """Drop whoever is behind the leader; say whether the race is over."""
        alive = self._survivors(table, self.ends()[block])
        return Decision(alive, self._stop(block, alive, table))

    @abstractmethod
    def behind(self, gaps: Tensor, total: int) -> Tensor:
        """Which rivals leave, by their gaps [R, n] to the leader, n of `total` samples. bool [R]."""

    def _survivors(self, table: ErrorTable, n: int) -> tuple[int, ...]:
        leader, *others = table.ranked(table.alive)
        if not others or n // self.group < self.fewest or n == self.total:  # on the whole grid the mean decides
            return (leader, *others)
        gaps = table.gaps(leader, others)
        leave = (self.behind(gaps, self.total // self.group) | identical(gaps)).tolist()
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


@dataclass(frozen=True)
class PairedT(RacingRule):
    """Drop a candidate that the whole grid would hardly prefer to the leader (paired t-test on a finite grid).

    With n of M samples seen, the t statistic the pair will have on the whole grid is normal around t_n sqrt(M/n) with
    variance M/n - 1. A rival leaves when the probability that it ends below -doubt is less than 1 - confidence, i.e.
    when t_n > q sqrt(1 - n/M) - doubt sqrt(n/M), q the quantile of Student's t with n - 1 degrees of freedom. With
    doubt 0 any other decision than the whole grid's counts as an error; with 1.645 only one that the grid itself
    would be sure of (one-sided 5 %), which ends the duels that no grid decides.

    The confidence is that of one comparison at one look, not of the whole race: looking again after each block and
    having many rivals err more often. ConfidenceSequence bounds the looks; `tools/replay.py` measures either.
    """

    first: int = 4
    confidence: float = 0.99  # of each comparison
    doubt: float = 1.645  # standard errors of the whole grid's own decision
    name = "paired_t"
    fewest: ClassVar[int] = 4  # Student's t allows for a spread guessed from few

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_confidence(self.confidence)
        if self.doubt < 0:
            raise UserError(f"a doubt of {self.doubt} standard errors is negative; give 0 or more")

    def behind(self, gaps: Tensor, total: int) -> Tensor:
        """See the class."""
        n = gaps.shape[1]
        seen = n / total
        limit = t_quantile(self.confidence, n) * math.sqrt(1 - seen) - self.doubt * math.sqrt(seen)
        return t_statistics(gaps) > max(limit, 0.0)


@dataclass(frozen=True)
class ConfidenceSequence(RacingRule):
    """Drop a candidate once an anytime-valid bound on its mean gap is positive: looking after each block costs nothing.

    The bound of each pair fails at any time with a probability of at most 1 - confidence (`mixture_bound`, of the
    normal score of Student's t). This holds for gaps that are normal or nearly so, and for others as their number
    grows. The samples count as an endless stream, so it asks for more of them than PairedT.
    """

    confidence: float = 0.99  # of each pair, over the whole race
    tuned: int = 50  # samples at which the bound is tightest
    name = "confseq"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_confidence(self.confidence)

    def behind(self, gaps: Tensor, total: int) -> Tensor:
        """See the class."""
        samples = gaps.shape[1]
        scores = normal_scores(t_statistics(gaps), samples)
        return scores > mixture_bound(1 - self.confidence, samples, self.tuned)


@dataclass(frozen=True)
class SuccessiveHalving(RacingRule):
    """Keep the better 1/eta of the candidates after each round, with eta times the samples (Karnin et al. 2013).

    Rounds end after first, first eta, first eta^2, ... samples. Needs no statistics, and knows nothing of hard images.
    """

    eta: int = 2
    name = "successive_halving"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 2:
            raise UserError(f"eta {self.eta} would keep everybody; give 2 or more")

    def ends(self) -> list[int]:
        """first, first eta, first eta^2, ... up to the whole grid."""
        ends = [min(self.first, self.total)]
        while ends[-1] < self.total:
            ends.append(min(ends[-1] * self.eta, self.total))
        return ends

    def most_kept(self, block: int, candidates: int) -> int:
        """What the rounds before have kept; 0 once the race is over."""
        kept = candidates
        for _ in range(block):
            kept = math.ceil(kept / self.eta)
        return kept if kept > 1 else 0

    def behind(self, gaps: Tensor, total: int) -> Tensor:
        """All but the better part; gaps come in the order of their means."""
        rank = torch.arange(1, len(gaps) + 1)
        return rank >= math.ceil((len(gaps) + 1) / self.eta)


@lru_cache
def _growing(first: int, block: int, growth: float, group: int, total: int) -> tuple[int, ...]:
    """See `RacingRule`; asked for by every image after every block."""
    ends = [min(first, total)]
    while ends[-1] < total:
        grown = int(ends[-1] * growth) // group * group
        ends.append(min(ends[-1] + max(block, grown), total))
    return tuple(ends)


def _sizes(ends: Sequence[int]) -> list[int]:
    return [end - start for start, end in pairwise([0, *ends])]


def _check_confidence(confidence: float) -> None:
    if not 0.5 < confidence < 1:
        raise UserError(f"a confidence of {confidence} is not between 0.5 and 1; give something like 0.99")
