"""Starts, kills and reruns jobs of the command line; what a killed job must leave behind.

Jobs are forks of this process, so that its imports are not paid again; two workers form a gloo group as torchrun's
ranks do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from tiny_jobs import contents

from perception.commands.main import main
from perception.jobs.manifest import DONE, ManifestReader, manifest_path, part_paths

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
PATIENCE = 120.0  # seconds for a job to end by itself after a signal
DIGITS = 1e-5  # by which errors of `classify` may differ after a kill


@dataclass(frozen=True)
class Job:
    """A command line without --out, and how many processes run it."""

    command: list[str]
    workers: int = 1

    def start(self, out: Path) -> list[int]:
        """The process ids."""
        port = free_port()
        return [self._forked(out, rank, port) for rank in range(self.workers)]

    def run(self, out: Path) -> None:
        """Run it to its end; it must succeed."""
        statuses = [waited(child) for child in self.start(out)]
        assert not any(statuses), statuses

    def _forked(self, out: Path, rank: int, port: int) -> int:
        if child := os.fork():
            return child
        status = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(os.open(out.parent / f"stderr{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            if self.workers > 1:
                ranks = {"RANK": rank, "WORLD_SIZE": self.workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in ranks.items()})
            engine = ["--engine", "torchrun" if self.workers > 1 else "local"]
            status = main([*self.command, "--out", str(out), *engine])
        except KeyboardInterrupt:  # it came before the command began, or after it was through
            status = 130
        finally:
            os._exit(status)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def waited(child: int, patience: float = 600.0) -> int:
    """Exit status of a process; negative: the signal that ended it. It is killed when it takes too long."""
    deadline = time.monotonic() + patience
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            raise AssertionError(f"a job did not end within {patience} s")
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])


def killed(children: list[int], how: signal.Signals) -> bool:
    """Send a signal to all processes of a job; False where all were through already."""
    for child in children:
        os.kill(child, how)
    statuses = [waited(child, PATIENCE) for child in children]
    if len(children) == 1:
        assert statuses[0] in (0, 130 if how == signal.SIGINT else -how), (how, statuses)
    return any(statuses)


def lines(out: Path) -> int:
    """How many lines the parts of the running job hold."""
    return sum(path.read_bytes().count(b"\n") for path in part_paths(out)) if out.exists() else 0


def await_moment(out: Path, rng: random.Random, seconds: float, items: int) -> None:
    """Until a random moment of a job that takes so long: anywhere, or soon after a random line was written."""
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0.02, 0.9) * seconds)
        return
    wanted, deadline = rng.randint(0, items - 1), time.monotonic() + 2 * seconds + 5
    while time.monotonic() < deadline:
        try:
            if lines(out) >= wanted:
                break
        except FileNotFoundError:  # merged at this moment
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.1) * seconds)


def survive(name: str, job: Job, out: Path, expected: dict[str, bytes], kills: int, seconds: float) -> Counter[str]:
    """Kill the job again and again and let it go on; hits by signal. A job that got through first starts anew."""
    rng, hits = random.Random(f"{name} {job.workers}"), Counter[str]()
    for _ in range(10 * kills + 10):  # far more than are needed, so that a slow machine ends, too
        if hits.total() == kills:
            break
        how = SIGNALS[(hits.total() + job.workers - 1) % len(SIGNALS)]
        children = job.start(out)
        await_moment(out, rng, seconds, 6)
        hit = killed(children, how)
        hits[how.name] += hit
        check_present(name, out, expected)
        if not hit:
            shutil.rmtree(out, ignore_errors=True)
    job.run(out)
    check_same(name, contents(out), expected)
    return +hits


def check_present(name: str, out: Path, expected: dict[str, bytes]) -> None:
    """Pictures with their final name are whole, and whatever a finished line points to is there."""
    for path in (manifest_path(out), *part_paths(out)):
        reader = ManifestReader(path)
        for key in reader.offsets:
            record = reader.get(key)
            assert record is not None and record["status"] == DONE, record
            for output in record["output"]:
                assert same_file(name, (out / output).read_bytes(), expected[output]), f"{output} is half written"
        reader.close()


def check_same(name: str, found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """What a job left is what an undisturbed one leaves: nothing lost, nothing doubled.

    Features may be cut into other shards; errors of `classify` may differ in their last digits.
    """
    whole = {key for key in found if not key.endswith(".tmp") and not key.startswith("shards/")}
    assert whole == {key for key in expected if not key.startswith("shards/")}
    for key in sorted(whole):
        assert same_file(name, found[key], expected[key]), f"{name}: {key}"
    if name == "extract":
        tensors, wanted = (_tensors(files) for files in (found, expected))
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[key], wanted[key]) for key in wanted)


def same_file(name: str, found: bytes, expected: bytes) -> bool:
    """Equal bytes; for `classify` equal labels, rankings, evaluations, and errors up to their last digits."""
    if found == expected or name != "classify":
        return found == expected
    if found.startswith(b"{"):
        pairs = zip(found.splitlines(), expected.splitlines(), strict=True)
        return all(_near(json.loads(one), json.loads(other)) for one, other in pairs)
    one, other = load(found), load(expected)
    return all(torch.allclose(one[key], other[key], rtol=DIGITS, atol=DIGITS, equal_nan=True) for key in other)


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_near(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 20 * DIGITS * max(abs(one), abs(other)) + DIGITS
    return bool(one == other)


def _tensors(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    shards = [load(content) for key, content in files.items() if key.startswith("shards/")]
    tensors = {key: value for shard in shards for key, value in shard.items()}
    assert len(tensors) == sum(map(len, shards)), "a key is in two shards"
    return tensors
