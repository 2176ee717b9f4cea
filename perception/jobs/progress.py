"""The progress bar of a job, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Told how many items are through, and how many of these an earlier run had finished."""


@contextmanager
def progress_bar(total: int, show: bool, spent: Callable[[], int] | None = None) -> Iterator[Advance]:
    """A function that advances the bar; it does nothing when `show` is False.

    The bar tells how many items are through, the denoiser evaluations per second where `spent` counts them, and the
    time left at the pace of the items that this run has finished.
    """
    if not show:
        yield lambda count, earlier: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
    from rich.text import Text

    pace = Pace(total, spent)

    class PaceColumn(ProgressColumn):
        """The line of `Pace`, made anew at every refresh."""

        max_refresh = 0.5  # seconds

        def render(self, task: Task) -> Text:
            """Of the whole job: there is one task."""
            return Text(pace.line(), style="progress.remaining")

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), PaceColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task("", total=total)

        def advance(count: int, earlier: int) -> None:
            pace.add(count, earlier)
            bar.advance(task, count)

        yield advance


class Pace:
    """How fast a job goes, and how long it still takes."""

    def __init__(
        self,
        total: int,  # items
        spent: Callable[[], int] | None = None,  # denoiser evaluations so far
        clock: Callable[[], float] = time.monotonic,  # seconds
    ) -> None:
        self._left, self._finished = total, 0  # items; finished by this run
        self._spent, self._before = spent, spent() if spent else 0
        self._clock, self._began = clock, clock()

    def add(self, count: int, earlier: int) -> None:
        """So many items more are through, `earlier` of them finished by an earlier run."""
        self._left -= count
        self._finished += count - earlier

    def line(self) -> str:
        """Evaluations per second and time left, as far as they are known."""
        seconds, parts = self._clock() - self._began, []
        if self._spent is not None and seconds > 0:
            parts.append(f"{(self._spent() - self._before) / seconds:.1f} evaluations/s")
        if self._left and self._finished:
            parts.append(f"{_clock_time(seconds / self._finished * self._left)} left")
        return ", ".join(parts)


def _clock_time(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
