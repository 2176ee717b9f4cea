"""What keeping freed memory saves on a CPU: the same denoiser call in two processes, of which one keeps it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

from benchmarks.savings import Row, inputs
from perception.allocator import keep_freed_memory
from perception.backbones.loading.load import load_backbone
from perception.jobs.plan import timed

_WARM_UP = 5  # calls until free blocks lie as they are needed


def kept_memory(backbone: str, dtype: str, size: int, batch: int, repeats: int = 11) -> Row:
    """The denoiser on a batch, on the CPU: malloc as it is, against `keep_freed_memory`, in turns."""
    with _process(backbone, dtype, size, batch, False) as plain, _process(backbone, dtype, size, batch, True) as kept:
        pairs = [(_call(plain), _call(kept)) for _ in range(_WARM_UP + repeats)][_WARM_UP:]
    (_, expected), (_, got) = pairs[-1]
    return Row(
        name="denoiser on a CPU: malloc's own -> memory kept",
        plain_seconds=statistics.median(seconds for (seconds, _), _ in pairs),
        fast_seconds=statistics.median(seconds for _, (seconds, _) in pairs),
        time_ratio=statistics.median(fast / slow for (slow, _), (fast, _) in pairs),
        flop_ratio=1.0,
        evaluations=batch,
        difference=abs(expected - got) / abs(expected),
    )


@contextmanager
def _process(*arguments: object) -> Iterator[Connection]:
    """A process of its own that runs the call whenever it is asked."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()  # ends it
        process.join()


def _call(pipe: Connection) -> tuple[float, float]:
    """Seconds, and the sum of the squares of what the denoiser said."""
    pipe.send(None)
    answer: tuple[float, float] = pipe.recv()
    return answer


@torch.inference_mode()
def _serve(pipe: Connection, name: str, dtype: str, size: int, batch: int, keep: bool) -> None:
    if keep:
        keep_freed_memory()
    backbone = load_backbone(name, dtype=dtype, device="cpu")
    latents, noise, condition = inputs(backbone, size, batch)
    x_t = backbone.noise(latents, 50, noise)
    told: list[float] = []

    def denoise() -> None:
        told[:] = [float(backbone.denoise(x_t, 50, condition).raw.double().square().sum())]

    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send((timed(denoise, backbone.device), *told))
