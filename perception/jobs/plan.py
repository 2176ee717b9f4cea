"""The cost of a job before it runs: counted FLOPs and a short measurement, times the items left."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from perception.jobs.items import Item
from perception.jobs.manifest import DONE, ManifestReader, manifest_path, part_paths


@dataclass(frozen=True)
class CostPlan:
    """Totals over all items of a job that have no result yet."""

    items: int
    flops: float  # floating-point operations; a multiply-add counts as two
    memory_bytes: float  # peak, of the device (CPU: of the process)
    disk_bytes: float  # written below OUT
    seconds: float  # on this machine, as one process
    evaluations: int  # rows through the denoiser

    def render(self) -> str:
        """A small table for people."""
        rows = {
            "items": f"{self.items}",
            "denoiser evaluations": f"{self.evaluations}",
            "compute": f"{_scaled(self.flops, 1000, 'FLOP')}",
            "memory": f"about {_scaled(self.memory_bytes, 1024, 'B')}",
            "disk": f"{_scaled(self.disk_bytes, 1024, 'B')}",
            "time": f"about {_duration(self.seconds)} (one process on this machine)",
        }
        return "\n".join(f"{name:>20}  {value}" for name, value in rows.items())


@dataclass(frozen=True)
class Measurement:
    """The cost of one call."""

    flops: float
    seconds: float
    base_bytes: float  # memory before the call
    peak_bytes: float  # highest memory during the call


def measure(call: Callable[[], Any], device: torch.device, *, once: bool = False) -> Measurement:
    """Run `call` to warm up (and fill caches), to count FLOPs, and then up to 5 times or 1 second on the clock.

    `once`: count and time a single call, where the job has no more of them than the measurement.
    """
    base = _memory(device, peak=False)
    if once:
        with FlopCounterMode(display=False) as counter:
            taken = timed(call, device)
        return Measurement(counter.get_total_flops(), taken, base, max(base, _memory(device, peak=True)))
    call()
    peak = _memory(device, peak=True)
    with FlopCounterMode(display=False) as counter:
        call()
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < 1.0:
        seconds.append(timed(call, device))
    return Measurement(counter.get_total_flops(), statistics.median(seconds), base, max(base, peak))


def plan(
    measured: Measurement,  # of one item
    items: int,
    *,
    batch_size: int,  # items in memory at a time
    evaluations: int = 0,  # denoiser rows per item
    disk_bytes: float = 0.0,  # per item
) -> CostPlan:
    """Scale the measurement of one item to all of them."""
    activations = (measured.peak_bytes - measured.base_bytes) * min(batch_size, max(items, 1))
    return CostPlan(
        items=items,
        flops=measured.flops * items,
        memory_bytes=measured.base_bytes + activations,
        disk_bytes=disk_bytes * items,
        seconds=measured.seconds * items,
        evaluations=evaluations * items,
    )


def remaining(items: Iterable[Item], out: Path | None) -> int:
    """How many items have no finished line below `out` yet (file contents are not compared)."""
    return len(unfinished(items, out))


def unfinished(items: Iterable[Item], out: Path | None) -> list[Item]:
    """The items that have no finished line below `out` yet, in a manifest or a part that a killed run left."""
    finished: set[str] = set()
    for path in [manifest_path(out), *part_paths(out)] if out is not None else []:
        reader = ManifestReader(path)
        for key in reader.offsets:
            (finished.add if (reader.get(key) or {}).get("status") == DONE else finished.discard)(key)
        reader.close()
    return [item for item in items if item.id not in finished]


def _memory(device: torch.device, *, peak: bool) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, with what it leaves the device to do."""
    _synchronize(device)
    started = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _scaled(value: float, base: int, unit: str) -> str:
    """1536 B -> '1.5 KiB' (base 1024), 2.5e12 FLOP -> '2.5 TFLOP' (base 1000)."""
    prefixes = ["", "K", "M", "G", "T", "P", "E"]
    step = 0
    while value >= base and step < len(prefixes) - 1:
        value, step = value / base, step + 1
    infix = "i" if base == 1024 and step else ""
    number = f"{value:.3g}" if value < 1000 else f"{value:.0f}"  # 1003 MiB, not 1e+03
    return f"{number} {prefixes[step]}{infix}{unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
