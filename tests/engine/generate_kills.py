"""Kills generate jobs at random points and reruns them: `generate_kills.py FOLDER TINY_SD`. Prints what it survived.

Jobs run in forked processes that share this one's imports; two workers form a gloo group as torchrun's ranks do.
"""

import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from crash_points import dying
from crash_points import forked as run_forked
from PIL import Image

from perception.backbones import load_backbone
from perception.backbones.building import randomize
from perception.commands.generate_report import finish
from perception.commands.main import main
from perception.engine.manifest import DONE, ManifestReader, manifest_path, part_paths
from perception.generation import CITYSCAPES, new_control

KILLS = 10  # for either number of workers
SAMPLES = 9


def prepare(root: Path, tiny_sd: Path) -> list[str]:
    """Three label maps and a control network; returns the command without --out."""
    (root / "maps").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        labels = np.kron(rng.integers(0, 19, (5, 6)), np.ones((16, 16))).astype(np.uint8)
        labels[:8] = 255
        Image.fromarray(labels).save(root / "maps" / f"{number}_labelTrainIds.png")
    control = new_control(load_backbone(tiny_sd, device="cpu"), 20)
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        randomize(part, "labels")
    control.save_pretrained(root / "control")
    models = ["--control", root / "control", "--backbone", tiny_sd, "--device", "cpu"]
    small = ["--size", "64", "--steps", "1", "--rescale", "1", "--window", "8", "--stride", "8"]
    job = ["--labels", root / "maps", "--per-label", SAMPLES // 3, "--domains", "night,fog", "--no-progress"]
    return ["generate", *map(str, [*models, *small, *job])]


def start(command: list[str], out: Path, workers: int) -> list[int]:
    """The process ids of a job."""
    port = free_port()
    return [forked(command, out, rank, workers, port) for rank in range(workers)]


def forked(command: list[str], out: Path, rank: int, workers: int, port: int) -> int:
    if child := os.fork():
        return child
    status = 99
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if workers > 1:
            ranks = {"RANK": rank, "WORLD_SIZE": workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in ranks.items()})
        engine = ["--engine", "torchrun" if workers > 1 else "local"]
        status = main([*command, "--out", str(out), *engine])
    finally:
        os._exit(status)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finished(children: list[int]) -> None:
    """Wait for a job that must succeed."""
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(statuses), statuses


def killed(children: list[int]) -> bool:
    """SIGKILL all processes of a job; False where all were through already."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, -signal.SIGKILL, 1, 99}, statuses  # a rank may see the other one die first
    return any(statuses)


def content(out: Path) -> dict[str, bytes]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def check_present(out: Path, expected: dict[str, bytes]) -> None:
    """Whatever has its final name below images and labels is whole, and every finished line has its files."""
    for name, found in content(out).items():
        if name.startswith(("images/", "labels/")) and not name.endswith(".tmp"):
            assert found == expected[name], f"{name} is half written"
    for path in (manifest_path(out), *part_paths(out)):
        reader = ManifestReader(path)
        for record in map(reader.get, reader.offsets):
            assert record is not None and record["status"] == DONE
            assert all((out / name).is_file() for name in record["output"]), record["id"]
        reader.close()


def survive(command: list[str], out: Path, workers: int, expected: dict[str, bytes], seconds: float) -> int:
    """Kill the job again and again, at points spread over its running time; returns how many kills hit it.

    A job that got through before its kill is thrown away: the next one starts anew.
    """
    rng, hits = random.Random(workers), 0
    for _ in range(10 * KILLS):  # far more than are needed, so that a slow machine ends, too
        if hits == KILLS:
            break
        children = start(command, out, workers)
        time.sleep(rng.uniform(0.02, 0.9) * seconds)
        hit = killed(children)
        hits += hit
        if out.exists():
            check_present(out, expected)
        if not hit:
            shutil.rmtree(out)
    finished(start(command, out, workers))
    assert content(out) == expected, f"{workers} workers"
    assert main(["generate", "--verify", str(out)]) == 0
    return hits


def survive_in_the_end(out: Path, expected: dict[str, bytes]) -> int:
    """Die at every disk operation that completes the data set; returns how many there are."""
    at, status = 0, 9
    while status == 9:
        at += 1
        for name in expected:
            if "/" not in name and name not in ("manifest.jsonl", "job.json"):
                (out / name).unlink(missing_ok=True)
        status = run_forked(lambda at=at: (dying(at, lambda: os._exit(9)), finish(out, CITYSCAPES)))
        assert status in (0, 9), status
        finish(out, CITYSCAPES)
        left = {name: found for name, found in content(out).items() if not name.endswith(".tmp")}  # the next job's
        assert left == expected
    return at - 1


def run(root: Path, tiny_sd: Path) -> None:
    torch.set_num_threads(1)
    command = prepare(root, tiny_sd)
    started = time.monotonic()
    finished(start(command, root / "plain", 1))
    seconds = time.monotonic() - started
    expected = content(root / "plain")
    assert len([name for name in expected if name.startswith("images/")]) == SAMPLES
    hits = [survive(command, root / f"workers{n}", n, expected, seconds) for n in (1, 2)]
    ends = survive_in_the_end(root / "workers1", expected)
    print(f"survived {hits[0]} kills with one worker, {hits[1]} with two, {ends} in the end")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
