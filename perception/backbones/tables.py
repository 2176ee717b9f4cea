"""What depends on the text alone, or on the timestep alone: made once, and looked up for every batch after that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from perception.backbones.devices import sent
from perception.backbones.memory import version_of
from perception.errors import UserError


class Distinct:
    """The different texts, or timesteps, of B rows."""

    def __init__(self, keys: tuple[Hashable, ...]) -> None:
        self.keys = keys  # of the rows
        self.first: dict[Hashable, int] = {}  # text -> the first row that holds it
        for row, key in enumerate(keys):
            self.first.setdefault(key, row)
        self._found: tuple[list[int], Tensor] | None = None

    def rows_of(self, table: Table) -> Tensor:
        """int64 [B]: the row of each text in a table. Layers with equal tables share one transfer to the device."""
        numbers = [table.numbers[key] for key in self.keys]
        if self._found is None or self._found[0] != numbers or self._found[1].device != table.rows.device:
            self._found = numbers, sent(torch.tensor(numbers), table.rows.device)
        return self._found[1]


class Samples:
    """How many neighbouring rows of a batch are one sample with other candidates.

    Raises UserError for a sample without rows.
    """

    def __init__(self, candidates: int | Sequence[int]) -> None:  # of every sample, or of each
        self.counts = [candidates] if isinstance(candidates, int) else list(candidates)
        if not self.counts or not all(isinstance(count, int) and count > 0 for count in self.counts):
            raise UserError(f"candidates is {candidates!r}; expected the number of prompts per sample, at least 1")
        self._all = isinstance(candidates, int)
        self._even = self.counts[0] if len(set(self.counts)) == 1 else 0  # candidates of all samples; 0: not equal
        self._sent: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def firsts(self, rows: int) -> Sequence[int]:
        """The first row of each sample in a batch. Raises UserError for a batch of other samples."""
        fits = rows % self._even == 0 if self._all else rows == sum(self.counts)
        if not fits:
            raise UserError(
                f"a batch of {rows} rows does not hold {', '.join(map(str, self.counts))} candidates per sample; "
                "order it [sample 0 x candidates, sample 1 x candidates, ...]"
            )
        return range(0, rows, self._even) if self._even else [0, *accumulate(self.counts[:-1])]

    def narrow(self, batch: Tensor) -> Tensor:
        """The first row of each sample."""
        firsts = self.firsts(len(batch))
        return batch[:: self._even] if self._even else batch[self._rows(firsts, batch.device)[0]]

    def widen(self, samples: Tensor) -> Tensor:
        """A row per sample -> all rows of the batch."""
        if self._even:
            return samples.repeat_interleave(self._even, dim=0)
        return samples[self._rows(self.firsts(sum(self.counts)), samples.device)[1]]

    def _rows(self, firsts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Of each sample the first row; of each row the sample."""
        if device not in self._sent:
            owners = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
            self._sent[device] = sent(torch.tensor(firsts), device), sent(owners, device)
        return self._sent[device]


class BatchRows:
    """What each row of the running batch holds; None where that is not known."""

    def __init__(self) -> None:
        self.samples: Samples | None = None  # in `sharing.shared_prefix`
        self.hold(None)

    def hold(self, texts: tuple[str, ...] | None, timesteps: tuple[float, ...] | None = None) -> None:
        """Another batch begins; none, where both are None."""
        self.texts = texts
        self.timesteps = timesteps
        self._read: dict[tuple[Hashable, ...], Distinct] = {}

    def different_texts(self) -> Distinct:
        """Which texts the batch holds."""
        assert self.texts is not None
        return self._different(self.texts)

    def different_timesteps(self, rows: int) -> Distinct:
        """Which timesteps a layer sees: of every row, or of the first row of each sample in `shared_prefix`."""
        assert self.timesteps is not None
        if rows == len(self.timesteps):
            return self._different(self.timesteps)
        assert self.samples is not None
        return self._different(tuple(self.timesteps[first] for first in self.samples.firsts(len(self.timesteps))))

    def every(self, value: Tensor, rows: int) -> Tensor:
        """What was read inside a module that ran once per sample of `shared_prefix`, for all rows of the batch."""
        return value if self.samples is None or len(value) == rows else self.samples.widen(value)

    def _different(self, keys: tuple[Hashable, ...]) -> Distinct:
        """Read once per batch."""
        if keys not in self._read:
            self._read[keys] = Distinct(keys)
        return self._read[keys]


class Table:
    """What a layer has made of all texts of one length, or of all timesteps, that it has seen.

    It grows by half at least, so that P texts are copied a few times each, however many calls bring them.
    """

    def __init__(self, keys: Sequence[Hashable], rows: Tensor) -> None:
        self.numbers = {key: number for number, key in enumerate(keys)}
        self._room = rows  # [N, P or more, ...]

    @property
    def rows(self) -> Tensor:
        """[N, P, ...]: N tensors that are looked up at once, of the P texts."""
        return self._room[:, : len(self.numbers)]

    def of(self, batch: Distinct) -> Tensor:
        """The rows [N, B, ...] of a batch: no copy where its rows hold one text, or all of them in order."""
        rows = self.rows
        if len(batch.first) == 1:
            number = self.numbers[batch.keys[0]]
            return rows[:, number : number + 1].expand(-1, len(batch.keys), *rows.shape[2:])
        whole = len(batch.keys) == len(self.numbers) and batch.keys == tuple(self.numbers)
        return rows if whole else rows[:, batch.rows_of(self)]

    def append(self, keys: Sequence[Hashable], rows: Tensor, most: int | None) -> None:
        """Further texts; `most` of them are foreseen in all, None: any number."""
        start, end = len(self.numbers), len(self.numbers) + len(keys)
        if end > self._room.shape[1]:
            size = max(end, min(start + start // 2, most or sys.maxsize))
            room = rows.new_empty(len(rows), size, *rows.shape[2:])
            room[:, :start] = self.rows
            self._room = room
        self._room.data[:, start:end] = rows  # `data`: rows that a graph has saved lie before these, and stay valid
        self.numbers.update(zip(keys, range(start, end), strict=True))


class RowTables:
    """A Table per layer and length, as long as the weights that made it stay. A deep copy is empty.

    Changes that torch does not count (through `.data`, as when averaged weights are swapped in) need a `clear`.
    """

    def __init__(
        self,
        capacity: int | None = None,  # rows that are kept, the latest ones; None: all
        alone: bool = False,  # make each row by itself: its last digits then do not tell which batch came first
    ) -> None:
        self.capacity = capacity
        self.alone = alone
        self._tables: dict[tuple[int, int], Table] = {}
        self._weights: tuple[Any, ...] = ()

    def clear(self) -> None:
        """Forget everything."""
        self._tables.clear()

    def clear_if_changed(self, weights: Iterable[Tensor]) -> None:
        """Forget everything unless these are the weights of the last call, and as precise."""
        every = list(weights)
        autocast = [torch.is_autocast_enabled(kind) for kind in {w.device.type for w in every} - {"meta"}]
        versions = (*autocast, *map(version_of, every))
        if versions != self._weights:
            self.clear()
            self._weights = versions

    def look_up(self, layer: int, length: int, batch: Distinct, make: Callable[[list[int]], Tensor]) -> Tensor:
        """The rows [N, B, ...] of a batch; `make` makes those of some of them, [N, rows, ...]."""
        table = self._tables.get((layer, length))
        missing = [key for key in batch.first if table is None or key not in table.numbers]
        if missing:
            with torch.inference_mode(False), torch.no_grad():  # remembered rows may later be part of a graph
                rows = [batch.first[key] for key in missing]
                made = torch.cat([make([row]) for row in rows], dim=1) if self.alone else make(rows)
                self._tables[layer, length] = table = self._longer(table, batch, missing, made)
        assert table is not None
        return table.of(batch)

    def _longer(self, table: Table | None, batch: Distinct, missing: list[Hashable], rows: Tensor) -> Table:
        """The table with further rows at its end; without what the batch does not hold where there is no room."""
        if table is None:
            return Table(missing, rows)
        if self.capacity is not None and len(table.numbers) + len(missing) > self.capacity:
            kept = {key: number for key, number in table.numbers.items() if key in batch.first}
            table = Table(list(kept), table.rows[:, list(kept.values())])
        table.append(missing, rows, self.capacity)
        return table

    def __deepcopy__(self, memo: dict[int, Any]) -> RowTables:
        return RowTables(self.capacity, self.alone)


def some_rows(batch: Tensor, rows: list[int]) -> Tensor:
    """These rows of a tensor; the tensor itself where these are as many as it has."""
    return batch if len(rows) == len(batch) else batch[sent(torch.tensor(rows), batch.device)]
