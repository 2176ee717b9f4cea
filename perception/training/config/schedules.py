"""Schedules of learning rates against the length of the training: what would begin after its own end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def schedule_mistakes(config: Mapping[str, Any]) -> list[str]:
    """One sentence per schedule of a plain config that begins when the training, or the schedule itself, has ended.

    A training counted in epochs tells its iterations only when its data are there: see `late_schedules`.
    """
    loop = config.get("train_cfg")
    if not isinstance(loop, Mapping):
        return []
    by_epoch = loop.get("by_epoch", "max_iters" not in loop)
    epochs, iterations = (loop.get("max_epochs"), None) if by_epoch else (1, loop.get("max_iters"))
    return late_schedules(config.get("param_scheduler"), epochs, iterations)


def late_schedules(schedules: Any, epochs: int | None, iterations: int | None) -> list[str]:
    """One sentence per schedule that begins at or after its end, by default that of the training (None: not known).

    mmengine takes it for an error of its own, in a traceback, when weights and data are loaded.
    """
    found = []
    for place, node in _placed(schedules):
        by_epoch = node.get("by_epoch", True)
        begin, total = node.get("begin", 0), epochs if by_epoch else iterations
        end = node.get("end", total)
        if not all(isinstance(value, (int, float)) for value in (begin, end)) or begin < end:
            continue
        unit, kind = ("epoch" if by_epoch else "iteration"), str(node.get("type")).rpartition(".")[2].strip("'>")
        whose = "it ends" if "end" in node else "the training ends"
        found.append(
            f"{place}: {kind} begins at {unit} {begin}, but {whose} at {end}; train longer, or shorten the warm-up "
            f"before it (the end of that schedule, and {place}.begin)"
        )
    return found


def _placed(schedules: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Schedules with the dotted names of their places in the config."""
    if isinstance(schedules, Mapping):
        yield "param_scheduler", schedules
    elif isinstance(schedules, (list, tuple)):
        yield from ((f"param_scheduler.{i}", node) for i, node in enumerate(schedules) if isinstance(node, Mapping))
