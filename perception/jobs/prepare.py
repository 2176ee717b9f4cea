"""Prefetching and micro-batching for one rank."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from perception.data.files import file_hash
from perception.data.inputs import MOST_BYTES
from perception.errors import UserError, printable
from perception.jobs.contract import JobPredictor, Outcome
from perception.jobs.items import Item

TOO_LARGE = "It does not fit into memory even alone; choose a smaller --size or another --device."
WAIT_SECONDS = 60.0  # for one item, before the user is told which
_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA and MPS; CPU allocators


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item on its way: skipped, failed (`reason`), or with a sample for the predictor."""

    item: Item
    hash: str | None  # SHA-256 of the file
    sample: Any = None
    reason: str | None = None
    skip: bool = False
    unchecked: bool = False  # failed before it was known whether an earlier result still holds


def prepare(predictor: JobPredictor, item: Item, finished: Callable[[Item, str | None], bool]) -> PreparedItem:
    """Hash the item, skip it when that content is finished, else prepare it. Bad input becomes a reason."""
    digest, unchecked = None, True
    try:
        digest = file_hash(item.path, MOST_BYTES) if item.path is not None else None
        if finished(item, digest):
            return PreparedItem(item, digest, skip=True)
        unchecked = False
        return PreparedItem(item, digest, sample=predictor.prepare(item))
    except UserError as error:
        reason = str(error)
    except MemoryError:
        reason = TOO_LARGE
    except OSError as error:
        reason = f"{error.filename or item.path} cannot be read ({error.strerror}); check the file."
    return PreparedItem(item, digest, reason=reason, unchecked=unchecked)


def prefetch(
    items: Iterable[Item], load: Callable[[Item], PreparedItem], workers: int, ahead: int
) -> Iterator[PreparedItem]:
    """Load items in threads and yield them in order, with at most `ahead` of them in memory."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    pending: deque[tuple[Item, Future[PreparedItem]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(load, item)))
            if len(pending) >= ahead:
                yield _awaited(*pending.popleft())
        while pending:
            yield _awaited(*pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _awaited(item: Item, future: Future[PreparedItem]) -> PreparedItem:
    """The item, once it is loaded; one line on stderr where that takes longer than a file should."""
    wait([future], WAIT_SECONDS)
    if not future.done():
        name = printable(str(item.path or item.id))
        print(f"still waiting for {name} after {WAIT_SECONDS:g} s; its disk or network may be stuck", file=sys.stderr)
    return future.result()


class MicroBatcher:
    """Calls the predictor on as many samples at a time as fit; outcomes do not depend on how they were cut."""

    def __init__(self, predictor: JobPredictor, size: int) -> None:
        self.predictor = predictor
        self.size = size  # halved for good when memory runs out

    def __call__(self, samples: Sequence[Any]) -> list[Outcome | None]:
        """One outcome per sample; None for a sample that does not fit even alone."""
        outcomes: list[Outcome | None] = []
        while len(outcomes) < len(samples):
            chunk = samples[len(outcomes) : len(outcomes) + self.size]
            result = self._attempt(chunk)
            if result is not None:
                outcomes += result
            elif len(chunk) == 1:
                outcomes.append(None)
            else:
                self.size = len(chunk) // 2
        return outcomes

    def _attempt(self, chunk: Sequence[Any]) -> list[Outcome] | None:
        """The outcomes, or None when memory ran out."""
        try:
            outcomes = self.predictor(chunk)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            if len(outcomes) != len(chunk):
                raise ValueError(f"the predictor returned {len(outcomes)} outcomes for {len(chunk)} samples")
            return outcomes
        release_memory()  # outside the handler: the traceback held the tensors
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch.OutOfMemoryError, and the RuntimeErrors of torch's CPU and MPS allocators."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_MESSAGES)


def release_memory() -> None:
    """Give freed memory of the device back, so that a smaller attempt may use it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
