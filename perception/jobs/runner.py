"""Runs a job: items in, manifest and files out, in a way that any kill can be followed by the same command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from perception.errors import UserError
from perception.jobs.contract import JobOptions, JobSummary, Predictor
from perception.jobs.finished import Request, is_finished, note_finished
from perception.jobs.folder import check_job, claim, settle
from perception.jobs.groups import Group, open_group
from perception.jobs.items import Item
from perception.jobs.manifest import manifest_path, merge_parts
from perception.jobs.progress import progress_bar
from perception.jobs.rank import Counts, Share, lot_size, lots_of


def run_job(
    items: Iterable[Item],
    build: Callable[[], Predictor],
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
    build: Callable[[], Predictor],
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


def _run(items: Sequence[Item], build: Callable[[], Predictor], options: JobOptions, group: Group) -> Counts:
    """Work on all items and leave a whole manifest; the counts of all processes."""
    if options.engine == "ray":
        from perception.jobs.ray import run_on_ray

        settle(options.out, items)
        counts = run_on_ray(items, build, options)
        merge_parts(options.out, items)
        return counts
    predictor = build()
    if group.rank == 0:
        check_job(options.out, predictor)
        settle(options.out, items)
    group.gather(None)
    check_job(options.out, predictor)
    lot = lot_size(len(items), options.batch_size)
    own = lots_of(items, lot, group.rank, group.world)
    share = Share(predictor, options, group.rank)
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
