"""The items of one process of a job: prepared, predicted, and committed to a part of the manifest.

The order of writes is what makes a kill harmless: files of an item (write, fsync, rename), `predictor.flush()`, then
the manifest line (append, fsync). So a line never points to something that is not on disk; work without a line is
redone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from perception import __version__
from perception.data.files import NameTooLongError, write_atomic
from perception.engine.items import Item
from perception.engine.jobs import JobOptions, Outcome, Predictor
from perception.engine.manifest import (
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
from perception.engine.worker import TOO_LARGE, MicroBatcher, Prepared, prefetch, prepare

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


def batches_of(items: Sequence[Item], batch_size: int, rank: int, world: int) -> list[Item]:
    """What one of `world` processes works on: every `world`-th batch of the whole list."""
    firsts = range(rank * batch_size, len(items), world * batch_size)
    return [item for first in firsts for item in items[first : first + batch_size]]


class Share:
    """The work of one rank: prepares, predicts, and commits to the rank's part of the manifest."""

    def __init__(self, predictor: Predictor, options: JobOptions, rank: int) -> None:
        self._predictor = predictor
        self._options = options
        self._micro_batches = MicroBatcher(predictor, options.batch_size)
        self._previous = ManifestReader(manifest_path(options.out))
        self._writer = ManifestWriter(part_path(options.out, rank))
        self._lines: list[bytes] = []  # finished, not yet committed
        self._counts = Counts()  # of the running call of `work`
        self._committed = time.monotonic()

    def work(self, items: Sequence[Item], advance: Callable[[int], None]) -> Counts:
        """Run all items and commit them; `advance` is told how many are through. May be called for many lots.

        A batch is cut by place, whether or not its items have a result: after a kill the rest makes the same calls, to
        the last digit, as if nothing had happened.
        """
        options = self._options
        counts = self._counts = Counts()
        load = partial(prepare, self._predictor, finished=self._finished)
        batch: list[Prepared] = []
        ahead = 2 * options.batch_size + options.workers
        for number, entry in enumerate(prefetch(items, load, options.workers, ahead), start=1):
            if entry.skip:
                counts.skipped += 1
            elif entry.reason is not None:
                self._fail(entry, entry.reason)
            else:
                batch.append(entry)
            if number % options.batch_size == 0:
                self._predict(batch)
                batch = []
            advance(1)
        self._predict(batch)
        self.commit()
        return counts

    def commit(self) -> None:
        """Put finished lines into the part, after everything that they point to."""
        if self._lines:
            getattr(self._predictor, "flush", _nothing)()
            self._writer.append(self._lines)
            self._lines = []
        self._committed = time.monotonic()

    def _predict(self, batch: Sequence[Prepared]) -> None:
        outcomes = self._micro_batches([entry.sample for entry in batch])
        for entry, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                self._fail(entry, TOO_LARGE)
            else:
                self._finish(entry, outcome)
        if time.monotonic() - self._committed >= self._options.commit_seconds:
            self.commit()

    def _finish(self, entry: Prepared, outcome: Outcome) -> None:
        clash = sorted(set(RESERVED) & set(outcome.record))
        if clash:
            raise ValueError(f"the runner writes the manifest fields {clash} itself; rename those of the predictor")
        try:
            line = encode_line(self._line(entry, DONE, sorted(outcome.files)) | outcome.record)
        except ValueError:  # JSON has no NaN
            self._fail(entry, "The result is not a finite number; check the model and its dtype.")
            return
        try:
            for path, content in outcome.files.items():
                write_atomic(_below(self._options.out, path), content)
        except NameTooLongError as error:
            self._fail(entry, str(error))
            return
        self._lines.append(line)
        self._counts.done += 1

    def _fail(self, entry: Prepared, reason: str) -> None:
        earlier = self._previous.get(entry.item.id) if entry.unchecked else None
        if earlier is None or not self._stands(earlier):  # else that result stays: the fault may pass
            self._lines.append(encode_line(self._line(entry, FAILED, []) | {"reason": reason}))
        self._counts.add(Counts(failed=1, reasons=[f"{entry.item.id}: {reason}"]))

    def _line(self, entry: Prepared, status: str, output: list[str]) -> dict[str, Any]:
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
        if record is None or record["hash"] != digest or not self._stands(record):
            return False
        return getattr(self._predictor, "still_valid", _always)(record)

    def _stands(self, record: dict[str, Any]) -> bool:
        return record["status"] == DONE and not missing_outputs(self._options.out, record)

    def __enter__(self) -> Share:
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


def _always(record: dict[str, Any]) -> bool:
    return True
