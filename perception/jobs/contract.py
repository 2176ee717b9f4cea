"""The contract between a job and the runner: predictors, outcomes, options and the summary."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from perception.errors import UserError, printable
from perception.jobs.items import Item

ENGINES = ("local", "torchrun", "ray")


@dataclass(frozen=True)
class Outcome:
    """What a predictor found for one item."""

    record: dict[str, Any]  # further fields of the manifest line; must be JSON and the same on every machine
    files: Mapping[str, bytes] = field(default_factory=dict)  # path below OUT -> content, on disk before the line is


class JobPredictor(Protocol):
    """Images in, results out. Built once per process, by a function without arguments.

    Optional members: `options: Mapping[str, Any]` (what the fingerprint was made of, named when a rerun differs),
    `flush() -> None` (called before manifest lines are written: whatever they point to must be on disk after it; lines
    are then written at the end of each lot of items alone, so that what is flushed together depends on the items and
    not on the clock), `spent() -> int` (denoiser evaluations so far, for the progress bar), `is_own(record) -> bool`
    (False: redo a finished item, because its line has other fields than this job writes), and `still_valid(record) ->
    bool` (False: redo a finished item, because what its line points to is gone).
    """

    fingerprint: str  # of the model and of every option that changes a result

    def prepare(self, item: Item) -> Any:
        """CPU side, for one item, called from several threads. UserError marks the item as failed."""

    def __call__(self, batch: Sequence[Any], /) -> list[Outcome]:
        """Device side: one outcome per prepared sample, up to rounding the same whatever the batch.

        UserError stops the job.
        """


class StreamingPredictor(JobPredictor, Protocol):
    """A predictor that works on several items at a time and ends each when it is ready, in any order."""

    def stream(self, samples: Iterable[tuple[int, Any]], together: int, /) -> Iterator[tuple[int, Outcome] | None]:
        """Take prepared samples one by one, at most `together` at a time, and yield the number and outcome of each.

        Yields None now and then while nothing ends, so that outcomes that wait for the disk get there. Outcomes are up
        to rounding the same whatever `together` is. UserError stops the job.
        """


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Names everything that changes a result: 16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RayOptions:
    """The workers of the engine "ray". None of these changes a result.

    Raises:
        UserError: a number below its minimum.
    """

    workers: int | None = None  # processes with a predictor each; None: one per GPU, or one where there is none
    gpus: float | None = None  # per worker, a share such as 0.5 too; None: 1, or 0 where there is none
    cpus: int | None = None  # per worker, also its threads; None: a fair share of a local cluster, 1 of a joined one
    address: str | None = None  # of a cluster to join; None: a cluster on this machine for this job alone

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("gpus", 0), ("cpus", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} of the Ray workers is {value}; it must be at least {least}.")


@dataclass(frozen=True)
class JobOptions:
    """Where and how a job runs. None of these changes a result, only `seed` stands in the manifest.

    Raises:
        UserError: an empty name, an unknown engine, or a number below its minimum.
    """

    out: Path
    batch_size: int = 8  # items per call, or at a time in a stream; halved when memory runs out
    engine: str = "local"  # "local": this process; "torchrun": RANK of WORLD_SIZE; "ray": workers of a Ray cluster
    workers: int = 2  # threads that read and prepare items
    progress: bool = True  # a bar on stderr
    seed: int = 0  # recorded in every manifest line
    commit_seconds: float = 5.0  # finished items are in the manifest after so long; 0: at once
    ray: RayOptions = field(default_factory=RayOptions)  # of the engine "ray" alone

    def __post_init__(self) -> None:
        if not os.fspath(self.out):
            raise UserError("The output folder has an empty name; give it one.")
        object.__setattr__(self, "out", Path(self.out))
        if self.engine not in ENGINES:
            raise UserError(f"Unknown engine '{self.engine}'; choose one of {', '.join(ENGINES)}.")
        for name in ("batch_size", "workers"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        if not 0 <= self.commit_seconds < math.inf:
            raise UserError(f"commit_seconds is {self.commit_seconds}; it must be 0 or more.")


@dataclass(frozen=True)
class JobSummary:
    """Counts over all ranks of one run: `skipped` items were finished by an earlier run."""

    total: int
    done: int
    failed: int
    skipped: int
    seconds: float
    manifest: Path
    reasons: tuple[str, ...] = ()  # "<id>: <sentence>" of the first failures
    rank: int = 0  # of the process that holds this summary

    @property
    def exit_code(self) -> int:
        """1 on rank 0 when an item failed, else 0: torchrun ends all ranks at the first status that is not 0."""
        return 1 if self.failed and self.rank == 0 else 0

    def render(self) -> str:
        """One line of counts, then one per failure kept, as a terminal may show them."""
        counts = f"{self.done} done, {self.skipped} already there, {self.failed} failed, {self.seconds:.1f} s"
        more = [f"... and {self.failed - len(self.reasons)} more failures, see the manifest"]
        return "\n".join(
            [
                printable(f"{counts}: {self.manifest}"),
                *map(printable, self.reasons),
                *(more if self.failed > len(self.reasons) else []),
            ]
        )
