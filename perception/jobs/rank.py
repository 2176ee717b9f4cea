"""The items of one process of a job: prepared, predicted, and committed to a part of the manifest.

The order of writes is what makes a kill harmless: files of an item (write, fsync, rename), `predictor.flush()`, then
the manifest line (append, fsync). So a line never points to something that is not on disk; work without a line is
redone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, cast

from perception import __version__
from perception.data.files import NameTooLongError, write_atomic
from perception.jobs.contract import JobOptions, JobPredictor, Outcome, StreamingPredictor
from perception.jobs.items import Item
from perception.jobs.manifest import (
    DONE,
    FAILED,
    RESERVED,
    ManifestReader,
    ManifestWriter,
    encode_line,
    manifest_path,
    missing_outputs,
    part_path,
)
from perception.jobs.prepare import (
    TOO_LARGE,
    MicroBatcher,
    PreparedItem,
    is_out_of_memory,
    prefetch,
    prepare,
    release_memory,
)

_KEPT_REASONS = 5


@dataclass
class Counts:
    """What became of some items."""

    done: int = 0
    failed: int = 0
    skipped: int = 0  # finished by an earlier run
    reasons: list[str] = field(default_factory=list)  # "<id>: <sentence>" of the first failures

    def add(self, other: Counts) -> None:
        """Count the items of `other` too."""
        self.done += other.done
        self.failed += other.failed
        self.skipped += other.skipped
        self.reasons = [*self.reasons, *other.reasons][:_KEPT_REASONS]


def lot_size(items: int, batch_size: int) -> int:
    """Items of a lot: whole batches, one while the job is small, later a 64th of it, at most 16 batches.

    A lot is what one process takes at a time, whatever the engine: items of different lots never meet in a call, so the
    results are the same bytes with any number of processes.
    """
    return batch_size * min(max(items // (64 * batch_size), 1), 16)


def lots_of(items: Sequence[Item], lot: int, rank: int, world: int) -> list[Item]:
    """What one of `world` processes works on: every `world`-th lot of the whole list."""
    firsts = range(rank * lot, len(items), world * lot)
    return [item for first in firsts for item in items[first : first + lot]]


class RankRunner:
    """The work of one rank: prepares, predicts, and commits to the rank's part of the manifest."""

    def __init__(self, predictor: JobPredictor, options: JobOptions, rank: int) -> None:
        self._predictor = predictor
        self._options = options
        self._micro_batches = MicroBatcher(predictor, options.batch_size)
        self._together = options.batch_size  # items at a time in a stream; halved for good when memory runs out
        self._previous = ManifestReader(manifest_path(options.out))
        self._writer = ManifestWriter(part_path(options.out, rank))
        self._lines: list[bytes] = []  # finished, not yet committed
        self._counts = Counts()  # of the running call of `work`
        self._advance: Callable[[int, int], None] = _ignore
        self._committed = time.monotonic()

    def work(self, items: Sequence[Item], lot: int, advance: Callable[[int, int], None]) -> Counts:
        """Run all items, lot by lot of so many, and commit them. May be called for many lists.

        `advance` is told of items that are through: how many, and how many of them a run before this one finished.
        """
        self._counts, self._advance = Counts(), advance
        load = partial(prepare, self._predictor, finished=self._finished)
        ahead = 2 * self._options.batch_size + self._options.workers
        entries = prefetch(items, load, self._options.workers, ahead)
        run = self._stream if hasattr(self._predictor, "stream") else self._batches
        for _ in range(0, len(items), lot):
            run(islice(entries, lot))
            self.commit()
        return self._counts

    def _batches(self, entries: Iterator[PreparedItem]) -> None:
        """A batch is cut by place, whether or not its items have a result: after a kill the rest makes the same calls,
        to the last digit, as if nothing had happened.
        """
        while self._batch(list(islice(entries, self._options.batch_size))):
            self._commit_in_time()

    def _batch(self, entries: Sequence[PreparedItem]) -> bool:
        """Whether there were any."""
        todo = [entry for entry in entries if self._is_open(entry)]
        for entry, outcome in zip(todo, self._micro_batches([entry.sample for entry in todo]), strict=True):
            self._finish(entry, outcome)
        return bool(entries)

    def _stream(self, entries: Iterator[PreparedItem]) -> None:
        """An item is committed in time when it is ready. Out of memory: open items start again, fewer together."""
        source: Iterator[tuple[int, PreparedItem]] = (each for each in enumerate(entries) if self._is_open(each[1]))
        started: dict[int, PreparedItem] = {}
        while not self._drained(source, started):
            release_memory()
            if self._together == 1:
                self._finish(started.pop(next(iter(started))), None)
            self._together = max(self._together // 2, 1)
            source, started = chain(list(started.items()), source), {}

    def _drained(self, source: Iterator[tuple[int, PreparedItem]], started: dict[int, PreparedItem]) -> bool:
        """Run the stream to its end; False when memory ran out, with what is `started` and has no outcome."""

        def samples() -> Iterator[tuple[int, Any]]:
            for number, entry in source:
                started[number] = entry
                yield number, entry.sample

        try:
            for ended in cast(StreamingPredictor, self._predictor).stream(samples(), self._together):
                if ended is not None:
                    number, outcome = ended
                    self._finish(started.pop(number), outcome)
                self._commit_in_time()
        except (MemoryError, RuntimeError) as error:
            if not (started and is_out_of_memory(error)):
                raise
            return False
        return True

    def commit(self) -> None:
        """Put finished lines into the part, after everything that they point to."""
        if self._lines:
            getattr(self._predictor, "flush", _nothing)()
            self._writer.append(self._lines)
            self._lines = []
        self._committed = time.monotonic()

    def _commit_in_time(self) -> None:
        due = time.monotonic() - self._committed >= self._options.commit_seconds
        if due and not hasattr(self._predictor, "flush"):
            self.commit()

    def _is_open(self, entry: PreparedItem) -> bool:
        """Whether the item needs the predictor; else it is counted."""
        if entry.skip:
            self._counts.skipped += 1
            self._advance(1, 1)
        elif entry.reason is not None:
            self._fail(entry, entry.reason)
        return not entry.skip and entry.reason is None

    def _finish(self, entry: PreparedItem, outcome: Outcome | None) -> None:
        """Write the files of an item and its line; None: it does not fit into memory."""
        if outcome is None:
            return self._fail(entry, TOO_LARGE)
        clash = sorted(set(RESERVED) & set(outcome.record))
        if clash:
            raise ValueError(f"the runner writes the manifest fields {clash} itself; rename those of the predictor")
        try:
            line = encode_line(self._line(entry, DONE, sorted(outcome.files)) | outcome.record)
        except ValueError:  # JSON has no NaN
            return self._fail(entry, "The result is not a finite number; check the model and its dtype.")
        try:
            for path, content in outcome.files.items():
                write_atomic(_below(self._options.out, path), content)
        except NameTooLongError as error:
            return self._fail(entry, str(error))
        self._lines.append(line)
        self._counts.done += 1
        self._advance(1, 0)

    def _fail(self, entry: PreparedItem, reason: str) -> None:
        earlier = self._previous.get(entry.item.id) if entry.unchecked else None
        if earlier is None or not self._stands(earlier):  # else that result stays: the fault may pass
            self._lines.append(encode_line(self._line(entry, FAILED, []) | {"reason": reason}))
        self._counts.add(Counts(failed=1, reasons=[f"{entry.item.id}: {reason}"]))
        self._advance(1, 0)

    def _line(self, entry: PreparedItem, status: str, output: list[str]) -> dict[str, Any]:
        return {
            "id": entry.item.id,
            "status": status,
            "output": output,
            "seed": self._options.seed,
            "hash": entry.hash,
            "versions": _versions(),
        }

    def _finished(self, item: Item, digest: str | None) -> bool:
        record = self._previous.get(item.id)
        if record is None or record.get("hash", "") != digest or not self._stands(record):
            return False
        return getattr(self._predictor, "still_valid", _always)(record)

    def _stands(self, record: dict[str, Any]) -> bool:
        if record["status"] != DONE or missing_outputs(self._options.out, record):
            return False
        return getattr(self._predictor, "is_own", _always)(record)

    def __enter__(self) -> RankRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.commit()  # also after Ctrl-C: what is finished stays finished
        finally:
            self._writer.close()
            self._previous.close()


def _below(out: Path, path: str) -> Path:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"an output path must lie below OUT, not '{path}'")
    return out / relative


@cache
def _versions() -> dict[str, str]:
    return {"perception": __version__, **{name: version(name) for name in ("torch", "diffusers")}}


def _nothing() -> None:
    return None


def _ignore(count: int, earlier: int) -> None:
    return None


def _always(record: dict[str, Any]) -> bool:
    return True
