"""The Ray engine: lots of items through a pool of Ray Data actors, each of which commits as a rank does.

The driver holds rank 0 of OUT and hands out lots; a worker takes a free rank above it and keeps it until it ends, and
writes results only for lots. So workers that outlive their driver get nothing more to write, and the next run waits
until they are gone (`folder.claim`). Files go from the workers to OUT; only counts come back to the driver.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from perception.allocator import keep_freed_memory
from perception.errors import UserError
from perception.jobs.contract import JobOptions, JobPredictor, RayOptions
from perception.jobs.folder import check_job, claim_next_rank
from perception.jobs.items import Item
from perception.jobs.progress import progress_bar
from perception.jobs.rank import Counts, RankRunner, lot_size

LIVES = 3  # deaths per worker before the job ends; Ray starts dead workers anew and gives out their lots again
_OBJECT_STORE = 512 << 20  # bytes of a local cluster; it holds the items and no results

_DEATHS = (
    "Ray workers died again and again, as they do when memory runs out; ask for fewer --ray-workers, and run the same "
    "command again to resume."
)


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each of them takes of the cluster."""

    workers: int
    cpus: int
    gpus: float


class RayWorker:
    """A class for `map_batches`: one predictor per process, built once; lots of items in, pickled counts out.

    A UserError comes back in place of the counts; any other error is raised.
    """

    def __init__(self, job: Any, folder: str, most: int) -> None:
        keep_freed_memory()
        self._share: RankRunner | None = None
        self._problem: Exception | None = None
        try:
            _enter(folder)
            self._items, build, self._options = _ray().get(job)
            self._rank, self._lock = claim_next_rank(self._options.out)
            if self._rank > most:
                raise UserError(_DEATHS)
            self._predictor: JobPredictor = build()
        except Exception as error:  # told with the first lot: Ray would try the constructor again and again
            self._problem = error

    def __call__(self, lots: dict[str, Any]) -> dict[str, Any]:
        """Lots [`first`, `last`) of the items; one `report` for each."""
        bounds = zip(lots["first"], lots["last"], strict=True)
        return {"report": [pickle.dumps(self._work(int(first), int(last))) for first, last in bounds]}

    def _work(self, first: int, last: int) -> Counts | UserError:
        try:
            if self._problem is not None:
                raise self._problem
            if self._share is None:
                self._share = self._open()
            lot = lot_size(len(self._items), self._options.batch_size)
            return self._share.work(self._items[first:last], lot, lambda count, earlier: None)
        except UserError as error:
            return error

    def _open(self) -> RankRunner:
        predictor, options = self._predictor, self._options
        check_job(options.out, predictor)
        return RankRunner(predictor, options, self._rank)


def run_on_ray(items: Sequence[Item], build: Callable[[], JobPredictor], options: JobOptions) -> Counts:
    """Work on all items; afterwards the parts of the manifest hold a line for each.

    The nodes of a cluster must see the same files under the same paths. Raises UserError when Ray is not installed or
    not reached, when the cluster is too small, and when a worker has died too often.
    """
    counts = Counts()
    with _cluster(options.ray) as pool, progress_bar(len(items), options.progress) as advance:
        for report in _reports(items, build, options, pool):
            if isinstance(report, UserError):
                raise report
            counts.add(report)
            advance(report.done + report.failed + report.skipped, report.skipped)
    return counts


def _reports(
    items: Sequence[Item], build: Callable[[], JobPredictor], options: JobOptions, pool: Pool
) -> Iterator[Counts | UserError]:
    ray = _ray()
    lot = lot_size(len(items), options.batch_size)
    lots = [{"first": first, "last": min(first + lot, len(items))} for first in range(0, len(items), lot)]
    workers = min(pool.workers, len(lots))
    data = ray.data.from_items(lots, override_num_blocks=len(lots)).map_batches(
        RayWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        fn_constructor_args=(ray.put((items, build, options)), os.getcwd(), workers * (1 + LIVES)),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        for row in data.iter_rows():
            yield pickle.loads(row["report"])
    except ray.exceptions.RayTaskError:  # an error in the predictor, with its traceback
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The Ray cluster failed ({reason}); run the same command again to resume.") from error


@contextmanager
def _cluster(options: RayOptions) -> Iterator[Pool]:
    """A cluster of this job, one joined for its time, or the one that this process is connected to already."""
    ray = _ray()
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, options)
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield _pool(ray.cluster_resources(), options, shared=not owned or options.address is not None)
    finally:
        context.enable_progress_bars = bars
        if owned:
            ray.shutdown()


def _connect(ray: ModuleType, options: RayOptions) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if options.address is None:
        processors = max(os.cpu_count() or 1, (options.workers or 1) * (options.cpus or 1))
        own = {"num_cpus": processors, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        with _on_loopback():
            ray.init("local", _node_ip_address="127.0.0.1", **own, **quiet)
        return
    try:
        ray.init(options.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The Ray cluster at {options.address} cannot be joined ({reason}); check --ray-address, and that "
            "RAY_AUTH_MODE and the token are those of the cluster."
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster started meanwhile listens on 127.0.0.1 alone: whoever reaches one may give it work to do.

    Ray keeps to it where it does not support clusters of several machines (Windows, macOS). Elsewhere it has no option
    for that and replaces a local `_node_ip_address` by one of the network.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _pool(resources: dict[str, float], options: RayOptions, *, shared: bool) -> Pool:
    """Fill in what the options leave open. Raises UserError when the cluster cannot hold a single worker."""
    gpus_there, cpus_there = resources.get("GPU", 0.0), int(resources.get("CPU", 0))
    gpus = float(bool(gpus_there)) if options.gpus is None else options.gpus
    workers = options.workers or (max(int(gpus_there / gpus), 1) if gpus else 1)
    cpus = options.cpus or (1 if shared else max(cpus_there // workers, 1))
    if gpus > gpus_there or cpus > cpus_there:
        raise UserError(
            f"A Ray worker asks for {cpus} CPUs and {gpus:g} GPUs, but the cluster has {cpus_there} and "
            f"{gpus_there:g} in all; lower --ray-cpus or --ray-gpus."
        )
    return Pool(workers, cpus, gpus)


def _enter(folder: str) -> None:
    """Work where the driver works, so that relative paths mean the same files."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"The node {socket.gethostname()} has no folder {folder}; all nodes must see the files of the job under "
            "the same paths, for example on a shared file system."
        ) from error


def _ray() -> ModuleType:
    """The module, with ray.data, quiet and without usage statistics. Raises UserError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning where workers have no GPU
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("The engine 'ray' needs Ray; install it with `pip install 'perception[ray]'`.") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
