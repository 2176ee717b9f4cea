"""Runs a job: items in, manifest and files out, so that any kill can be followed by the same command.

The processes that share a job are one, or those that torchrun started.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from perception.errors import UserError
from perception.jobs.contract import JobOptions, JobPredictor, JobSummary
from perception.jobs.finished import Request, is_finished, note_finished
from perception.jobs.folder import check_job, claim, recover
from perception.jobs.items import Item
from perception.jobs.manifest import manifest_path, merge_parts
from perception.jobs.progress import progress_bar
from perception.jobs.rank import Counts, RankRunner, lot_size, lots_of

_PATIENCE = timedelta(days=7)  # a rank may wait this long for the slowest one


class Group(Protocol):
    """Rank, size, and the one collective that a job needs."""

    rank: int
    world: int

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank; returns when every rank has called it."""

    def close(self) -> None:
        """Leave the group."""


class LocalGroup:
    """This process alone."""

    rank = 0
    world = 1

    def gather(self, value: Any) -> list[Any]:
        """The value, as a list of one."""
        return [value]

    def close(self) -> None:
        """Nothing to leave."""


class TorchrunGroup:
    """RANK of WORLD_SIZE over gloo, so that it needs no GPU; torchrun ends all ranks when one fails."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._owned = not dist.is_initialized()
        if self._owned:
            _interruptible(lambda: dist.init_process_group("gloo", timeout=_PATIENCE))
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leave the process group if this job opened it."""
        import torch.distributed as dist

        if self._owned:
            dist.destroy_process_group()


def _interruptible(call: Callable[[], object]) -> None:
    """Run `call`, which waits for other processes outside of Python, so that Ctrl-C ends the waiting."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failures:
        raise failures[0]


def open_group(engine: str) -> Group:
    """The group of an engine. Raises UserError when the environment does not fit to it."""
    started_by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if engine == "torchrun":
        if not started_by_torchrun:
            raise UserError(
                "The engine 'torchrun' needs RANK and WORLD_SIZE; start it as "
                "`torchrun --nproc-per-node N -m perception.commands.main COMMAND ... --engine torchrun`."
            )
        return TorchrunGroup()
    if started_by_torchrun and int(os.environ["WORLD_SIZE"]) > 1:
        raise UserError(f"This process was started by torchrun, but the engine is '{engine}'; add --engine torchrun.")
    return LocalGroup()


def run_job(
    items: Iterable[Item],
    build: Callable[[], JobPredictor],
    options: JobOptions,
    request: Request | None = None,  # what tells whether all is done already, without `build`; None: nothing does
) -> JobSummary:
    """Run the predictor over all items that have no result yet; call again to resume or to retry failures.

    Returns counts over all processes. Raises UserError for what concerns the whole job (an OUT made with other options
    or in use, a full disk); a bad item costs its manifest line.
    """
    items = _distinct(items)
    started = time.monotonic()
    group = open_group(options.engine)
    try:
        lock = claim(options.out, group.rank, group.world)
        try:
            counts = _unless_finished(items, build, options, group, request)
        finally:
            lock.release()
    finally:
        group.close()
    seconds = time.monotonic() - started
    return JobSummary(
        total=len(items),
        done=counts.done,
        failed=counts.failed,
        skipped=counts.skipped,
        seconds=seconds,
        manifest=manifest_path(options.out),
        reasons=tuple(counts.reasons),
        rank=group.rank,
    )


def _unless_finished(
    items: Sequence[Item],
    build: Callable[[], JobPredictor],
    options: JobOptions,
    group: Group,
    request: Request | None,
) -> Counts:
    """Run, unless an earlier run of the same request has finished everything; note where this one has."""
    if request is None:
        return _run(items, build, options, group)
    if group.gather(group.rank == 0 and is_finished(items, request, options))[0]:
        return Counts(skipped=len(items))
    digest = request.digest(items, options.out) if group.rank == 0 else ""
    counts = _run(items, build, options, group)
    if group.rank == 0 and counts.done + counts.skipped == len(items):
        note_finished(digest, items, request, options.out)
    return counts


def _run(items: Sequence[Item], build: Callable[[], JobPredictor], options: JobOptions, group: Group) -> Counts:
    """Work on all items and leave a whole manifest; the counts of all processes."""
    if options.engine == "ray":
        from perception.jobs.ray import run_on_ray

        recover(options.out, items)
        counts = run_on_ray(items, build, options)
        merge_parts(options.out, items)
        return counts
    predictor = build()
    if group.rank == 0:
        check_job(options.out, predictor)
        recover(options.out, items)
    group.gather(None)
    check_job(options.out, predictor)
    lot = lot_size(len(items), options.batch_size)
    own = lots_of(items, lot, group.rank, group.world)
    share = RankRunner(predictor, options, group.rank)
    show = options.progress and group.rank == 0
    with share, progress_bar(len(own), show, getattr(predictor, "spent", None)) as advance:
        done = share.work(own, lot, advance)
    counts = Counts()
    for each in group.gather(done):
        counts.add(each)
    if group.rank == 0:
        merge_parts(options.out, items)
    group.gather(None)  # no rank leaves before the manifest is whole
    return counts


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
