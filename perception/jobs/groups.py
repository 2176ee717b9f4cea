"""The processes that share a job: one, or those that torchrun started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from perception.errors import UserError

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
