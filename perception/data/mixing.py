"""Which sample of which source a mixed training set shows: shares held exactly in every epoch, no source left out.

A draw is a function of (seed, epoch, position) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from perception.errors import UserError

Picker = Callable[[np.random.Generator, int], np.ndarray]  # (random numbers, count) -> items of one source
_ORDER, _ITEMS, _PICKED = range(3)  # random streams


class MixingPlan:
    """The draws of every epoch.

    Each epoch has the same number of draws of a source. A source is gone through without repetition, over the end of an
    epoch, and then anew in another order.

    Raises:
        UserError: an empty source, or shares that do not fit.
    """

    def __init__(
        self,
        sizes: Sequence[int],  # samples per source
        shares: Sequence[float] | None = None,  # of the draws; None: proportional to the sizes, as DGInStyle
        length: int | None = None,  # draws per epoch; None: the sum of the sizes
        seed: int = 0,
        pickers: Sequence[Picker | None] | None = None,  # sources that choose their samples themselves
    ) -> None:
        if not sizes or not all(sizes):
            raise UserError(f"the sources of a mixed set have {list(sizes)} samples; expected at least one in each")
        self.sizes, self.seed, self.length = tuple(sizes), seed, sum(sizes) if length is None else length
        self.shares = _checked_shares(sizes, shares)
        self.counts = _exact_counts(self.shares, self.length)
        self.pickers = tuple(pickers or [None] * len(sizes))
        if not all(self.counts):
            raise UserError(
                f"an epoch of {self.length} draws at shares {[round(s, 4) for s in self.shares]} has "
                f"{list(self.counts)} of the sources; make the epoch longer or the smallest share larger"
            )

    def epoch(self, epoch: int) -> np.ndarray:
        """int64 [length, 2]: source and its sample, in the order of the draws."""
        order = np.repeat(np.arange(len(self.sizes)), self.counts)
        order = self._random(_ORDER, epoch).permutation(order)
        draws = np.stack([order, np.zeros_like(order)], axis=1)
        for source in range(len(self.sizes)):
            draws[order == source, 1] = self._items(source, epoch)
        return draws

    def _items(self, source: int, epoch: int) -> np.ndarray:
        size, count, pick = self.sizes[source], self.counts[source], self.pickers[source]
        if pick is not None:
            return pick(self._random(_PICKED, source, epoch), count)
        positions = epoch * count + np.arange(count)
        rounds = range(positions[0] // size, positions[-1] // size + 1)
        items = np.concatenate([self._random(_ITEMS, source, number).permutation(size) for number in rounds])
        return items[positions - rounds[0] * size]

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])


def _checked_shares(sizes: Sequence[int], shares: Sequence[float] | None) -> tuple[float, ...]:
    if shares is None:
        return tuple(size / sum(sizes) for size in sizes)
    if len(shares) != len(sizes) or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1):
        raise UserError(
            f"the shares of a mixed set of {len(sizes)} sources are {list(shares)}; "
            "expected one above 0 for each source, and 1 in total"
        )
    return tuple(shares)


def _exact_counts(shares: Sequence[float], length: int) -> tuple[int, ...]:
    """Whole numbers that add up to `length`: rounded down, and one more where the rest is largest."""
    exact = np.array(shares) * length
    counts = np.floor(exact + 1e-9).astype(int)
    rest = np.argsort(counts - exact, kind="stable")[: length - counts.sum()]
    counts[rest] += 1
    return tuple(int(count) for count in counts)
