"""When to draw which (timestep, noise) samples, and when to stop: the staged schedule of the reference.

A stopping rule is a frozen description. It lays out blocks of samples beforehand and, after each block, looks at the
error table of one image and says which candidates stay. It holds no state and never touches the denoiser.

Source: Li et al. 2023, arXiv 2303.16203, algorithm 2; where paper and released code differ, the code is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from perception.classification.error_table import ErrorTable
from perception.errors import UserError


@dataclass(frozen=True)
class TimestepNoise:
    """One (timestep, noise) pair: every candidate of an image sees the same ones (common random numbers)."""

    timestep: int  # the integer training step, 0-based
    trial: int = 0  # which of the noises drawn at this timestep
    index: int = 0  # order of first evaluation: the row of a noise file


Block = tuple[TimestepNoise, ...]


@dataclass(frozen=True)
class Decision:
    """What a rule says after a block."""

    alive: tuple[int, ...]  # candidates that stay, best first: also the next block's order of evaluation
    stop: str | None = None  # why no further block is needed; None: go on


class StoppingRule(Protocol):
    """Which samples to draw, and whom to drop after each block of them."""

    @property
    def name(self) -> str:
        """Short name as given to `--method`."""

    def blocks(self, num_train_timesteps: int) -> tuple[Block, ...]:
        """All blocks the rule may draw, in order; the same for every image."""

    def most_rows(self, costs: Sequence[int]) -> tuple[int, ...]:
        """Denoiser rows of one sample that each block evaluates at most, by those of each candidate."""

    def decide(self, block: int, table: ErrorTable) -> Decision:
        """Whom to keep after block number `block`, given all errors so far of one image."""


def uniform_grid(samples: int, num_train_timesteps: int) -> tuple[int, ...]:
    """Return M = `samples` evenly spaced timesteps: start T//M//2, step T//M; the top is left out unless M divides T.

    Raises UserError unless 1 <= samples <= num_train_timesteps.
    """
    if not 1 <= samples <= num_train_timesteps:
        raise UserError(
            f"{samples} timesteps per candidate do not fit a model trained on {num_train_timesteps} steps; "
            f"ask for 1 to {num_train_timesteps} and use trials for several noises per timestep"
        )
    step = num_train_timesteps // samples
    return tuple(range(step // 2, num_train_timesteps, step))[:samples]


def staged_timesteps(samples: Sequence[int], num_train_timesteps: int) -> tuple[tuple[int, ...], ...]:
    """Return the NEW timesteps of each stage, in the order of evaluation.

    Stage i takes every (M // n_i)-th entry of the grid of M = max(samples), starting at half that stride, the first
    n_i of them, less what is done. Two consequences, kept because results depend on them: grids that do not nest add
    up to more than n_i samples (20, 50, 100, 500 become 20, 70, 150, 500), and an n_i that does not divide M uses the
    low timesteps only.
    """
    grid = uniform_grid(max(samples), num_train_timesteps)
    done: set[int] = set()
    stages = []
    for n in samples:
        stride = len(grid) // n
        new = tuple(t for t in grid[stride // 2 :: stride][:n] if t not in done)
        done.update(new)
        stages.append(new)
    return tuple(stages)


def spread(count: int) -> tuple[int, ...]:
    """Order 0 .. count-1 so that every prefix is spread evenly, the middle first.

    Position floor(count * v) for the van der Corput numbers v = 1/2, 1/4, 3/4, 1/8, ... (the bits of 1, 2, 3, ...
    reversed), each position once; v = 0 comes last. Works for every count.
    """
    bits = max(count - 1, 1).bit_length()
    reverse = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)]
    return tuple(dict.fromkeys(count * v >> bits for v in (*reverse[1:], 0)))


def race_blocks(samples: int, trials: int, num_train_timesteps: int, ends: Sequence[int]) -> tuple[Block, ...]:
    """The uniform grid of `samples` timesteps in `spread` order, cut after `ends` samples; the last end is the total.

    With several trials the grid is walked once per trial, each time with fresh noise.
    """
    grid = uniform_grid(samples, num_train_timesteps)
    order = spread(samples)
    walk = [(grid[i], trial) for trial in range(trials) for i in order]
    drawn = [TimestepNoise(t, trial, index) for index, (t, trial) in enumerate(walk)]
    return tuple(tuple(drawn[start:end]) for start, end in pairwise([0, *ends]))


@dataclass(frozen=True)
class FixedSchedule:
    """The reference's staged elimination: after stage i with n_i samples per candidate keep the best k_i.

    `keep` may name more candidates than there are; then none is dropped. Raises UserError for lists that are empty,
    of unequal length, not positive, growing in `keep`, or that do not end with keep 1.
    """

    samples: tuple[int, ...]  # nominal samples per candidate, cumulative over the stages
    keep: tuple[int, ...]  # candidates kept after each stage; the last is 1
    trials: int = 1  # noises per timestep
    nested: bool = False  # draw exactly n_i, in spread order, as the paper counts; False: the released grids
    name = "fixed"

    def __post_init__(self) -> None:
        if not self.samples or len(self.samples) != len(self.keep):
            raise UserError(
                f"samples {_show(self.samples)} and keep {_show(self.keep)} must name the same stages; "
                "give one number per stage to each, such as --samples 25,250 --keep 5,1"
            )
        if min(*self.samples, *self.keep, self.trials) < 1:
            raise UserError(
                f"samples {_show(self.samples)}, keep {_show(self.keep)} and trials {self.trials} must all be 1 or more"
            )
        if self.keep[-1] != 1 or any(b > a for a, b in pairwise(self.keep)):
            raise UserError(f"keep {_show(self.keep)} must not grow and must end with 1, such as --keep 5,1")

    def blocks(self, num_train_timesteps: int) -> tuple[Block, ...]:
        """One block per stage; `trials` samples per new timestep, numbered in the order of first evaluation."""
        if self.nested:
            return race_blocks(max(self.samples), self.trials, num_train_timesteps, self.ends())
        stages = staged_timesteps(self.samples, num_train_timesteps)
        return _number(stages, self.trials)

    def ends(self) -> list[int]:
        """Nominal samples up to the end of each stage."""
        return [n * self.trials for n in self.samples]

    def most_rows(self, costs: Sequence[int]) -> tuple[int, ...]:
        """All candidates first, then as many as each stage keeps."""
        return (sum(costs), *(most_expensive(costs, k) for k in self.keep[:-1]))

    def decide(self, block: int, table: ErrorTable) -> Decision:
        """Keep the k candidates of smallest mean error, best first."""
        stop = "schedule completed" if block == len(self.samples) - 1 else None
        return Decision(table.ranked(table.alive)[: self.keep[block]], stop)


@dataclass(frozen=True)
class Exhaustive:
    """Every candidate on the whole uniform grid, nobody dropped before the end."""

    samples: int = 250  # evenly spaced timesteps
    trials: int = 1  # noises per timestep
    name = "exhaustive"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.trials < 1:
            raise UserError(f"samples {self.samples} and trials {self.trials} must both be 1 or more")

    def blocks(self, num_train_timesteps: int) -> tuple[Block, ...]:
        """One block: the whole grid."""
        return _number((uniform_grid(self.samples, num_train_timesteps),), self.trials)

    def most_rows(self, costs: Sequence[int]) -> tuple[int, ...]:
        """Always all candidates."""
        return (sum(costs),)

    def decide(self, block: int, table: ErrorTable) -> Decision:
        """Order all candidates, best first."""
        return Decision(table.ranked(table.alive), "grid completed")


def evaluations(rule: StoppingRule, costs: Sequence[int], num_train_timesteps: int) -> int:
    """Return how many denoiser evaluations one image costs at most, by the rows of each candidate.

    Exact for `exhaustive`, and for `fixed` where all candidates cost the same.
    """
    blocks = rule.blocks(num_train_timesteps)
    return sum(rows * len(block) for rows, block in zip(rule.most_rows(costs), blocks, strict=True))


def most_expensive(costs: Sequence[int], candidates: int) -> int:
    """Denoiser rows of so many candidates at most."""
    return sum(sorted(costs, reverse=True)[:candidates])


def _number(stages: Sequence[Sequence[int]], trials: int) -> tuple[Block, ...]:
    blocks, first = [], 0
    for timesteps in stages:
        blocks.append(
            tuple(TimestepNoise(t, r, (first + j) * trials + r) for j, t in enumerate(timesteps) for r in range(trials))
        )
        first += len(timesteps)
    return tuple(blocks)


def _show(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "(none)"
