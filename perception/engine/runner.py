"""Runs a job: items in, manifest and files out, in a way that any kill can be followed by the same command.

The order of writes is what makes it safe: files of an item (write, fsync, rename), `predictor.flush()`, then the
manifest line (append, fsync). So a line never points to something that is not on disk; work without a line is redone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from perception.data.files import write_atomic
from perception.engine.folder import check_fingerprint, claim, settle
from perception.engine.groups import Group, open_group
from perception.engine.items import Item
from perception.engine.jobs import JobOptions, JobSummary, Outcome, Predictor
from perception.engine.manifest import (
    DONE,
    FAILED,
    RESERVED,
    ManifestReader,
    ManifestWriter,
    encode_line,
    manifest_path,
    merge_parts,
    part_path,
)
from perception.engine.progress import progress_bar
from perception.engine.worker import TOO_LARGE, MicroBatcher, Prepared, prefetch, prepare
from perception.errors import UserError

_KEPT_REASONS = 5


def run_job(items: Iterable[Item], build: Callable[[], Predictor], options: JobOptions) -> JobSummary:
    """Run the predictor over all items that have no result yet; call again to resume or to retry failures.

    Returns counts over all ranks. Raises UserError for what concerns the whole job (an OUT made with other options or
    in use, a full disk); a bad item costs its manifest line.
    """
    items = _distinct(items)
    started = time.monotonic()
    group = open_group(options.engine)
    try:
        lock = claim(options.out, group.rank)
        try:
            counts = _run(items, build(), options, group)
        finally:
            lock.release()
    finally:
        group.close()
    done, failed, skipped = (sum(column) for column in zip(*(row[:3] for row in counts), strict=True))
    reasons = tuple(reason for row in counts for reason in row[3])[:_KEPT_REASONS]
    seconds = time.monotonic() - started
    return JobSummary(len(items), done, failed, skipped, seconds, manifest_path(options.out), reasons, group.rank)


def _run(items: Sequence[Item], predictor: Predictor, options: JobOptions, group: Group) -> list[tuple]:
    settings = getattr(predictor, "options", {})
    if group.rank == 0:
        check_fingerprint(options.out, predictor.fingerprint, settings)
        settle(options.out, items)
    group.gather(None)
    check_fingerprint(options.out, predictor.fingerprint, settings)
    share = _Share(predictor, options, group.rank)
    with share, progress_bar(len(items[group.rank :: group.world]), options.progress and group.rank == 0) as advance:
        share.work(items[group.rank :: group.world], advance)
    counts = group.gather((share.done, share.failed, share.skipped, share.reasons))
    if group.rank == 0:
        merge_parts(options.out, items)
    group.gather(None)  # no rank leaves before the manifest is whole
    return counts


class _Share:
    """The items of one rank: prepares, predicts, and commits to the rank's part of the manifest."""

    def __init__(self, predictor: Predictor, options: JobOptions, rank: int) -> None:
        self.done = self.failed = self.skipped = 0
        self.reasons: list[str] = []  # of the first failures
        self._predictor = predictor
        self._options = options
        self._micro_batches = MicroBatcher(predictor, options.batch_size)
        self._previous = ManifestReader(manifest_path(options.out))
        self._writer = ManifestWriter(part_path(options.out, rank))
        self._lines: list[bytes] = []  # finished, not yet committed
        self._committed = time.monotonic()

    def work(self, items: Sequence[Item], advance: Callable[[int], None]) -> None:
        """Run all items; `advance` is told how many are through."""
        options = self._options
        load = partial(prepare, self._predictor, finished=self._finished)
        batch: list[Prepared] = []
        for entry in prefetch(items, load, options.workers, ahead=2 * options.batch_size + options.workers):
            if entry.skip:
                self.skipped += 1
            elif entry.reason is not None:
                self._fail(entry, entry.reason)
            else:
                batch.append(entry)
            if len(batch) == options.batch_size:
                self._predict(batch)
                batch = []
            advance(1)
        self._predict(batch)
        self.commit()

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
        for path, content in outcome.files.items():
            write_atomic(_below(self._options.out, path), content)
        self._lines.append(line)
        self.done += 1

    def _fail(self, entry: Prepared, reason: str) -> None:
        self._lines.append(encode_line(self._line(entry, FAILED, []) | {"reason": reason}))
        self.failed += 1
        if len(self.reasons) < _KEPT_REASONS:
            self.reasons.append(f"{entry.item.id}: {reason}")

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
        if record is None or record["status"] != DONE or record["hash"] != digest:
            return False
        files_there = all((self._options.out / path).exists() for path in record["output"])
        return files_there and getattr(self._predictor, "still_valid", _always)(record)

    def __enter__(self) -> _Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.commit()  # also after Ctrl-C: what is finished stays finished
        finally:
            self._writer.close()
            self._previous.close()


def _distinct(items: Iterable[Item]) -> list[Item]:
    items = list(items)
    if not items:
        raise UserError("There are no items to work on; check the input folders.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"Two items have the id '{item.id}'; ids must be unique within a job.")
        seen.add(item.id)
    return items


def _below(out: Path, path: str) -> Path:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"an output path must lie below OUT, not '{path}'")
    return out / relative


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("perception", "torch", "diffusers")}


def _nothing() -> None:
    return None


def _always(record: dict[str, Any]) -> bool:
    return True
