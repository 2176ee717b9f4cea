"""Kills generate jobs on a Ray cluster at random points: `ray_kills.py FOLDER TINY_SD KILLS`. Prints what it survived.

The cluster is this script's own, and stays; jobs join it from forked processes. A kill hits the driver, all processes
of the job at once, or one worker, behind whose back the job goes on.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import torch
from generate_kills import SAMPLES, prepare
from kills import Job, check_present, free_port, waited
from tiny_jobs import contents

from perception.commands.main import main


@contextmanager
def cluster():
    """Process id and address of a head node with two CPUs; it ends with its process."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
    size = ["--num-cpus", "2", "--object-store-memory", str(80 << 20), "--include-dashboard", "false"]
    start = ["start", "--head", "--block", "--port", str(port), "--temp-dir", folder, "--disable-usage-stats", *size]
    command = [Path(sys.executable).with_name("ray"), *start]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while subprocess.run(
            [command[0], "health-check", "--address", f"127.0.0.1:{port}"], capture_output=True
        ).returncode:
            assert head.poll() is None and time.monotonic() < deadline, "the cluster did not start"
            time.sleep(1.0)
        yield head.pid, f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def forked(command: list[str], out: Path, workers: int, address: str) -> int:
    """The process id of a job's driver."""
    if child := os.fork():
        return child
    status = 99
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        engine = ["--engine", "ray", "--ray-workers", str(workers), "--ray-address", address]
        status = main([*command, "--out", str(out), *engine])
    finally:
        os._exit(status)


def worker_pids(head: int) -> list[int]:
    """Process ids of the job's workers: grandchildren of the head's process that say so in their title."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker") and parent(parent(folder.name)) == head:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parent(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def images(out: Path) -> int:
    return len(list(out.glob("images/*.png")))


def reached(out: Path, child: int, count: int) -> bool:
    """Wait until OUT holds `count` images; False when the job was through before."""
    deadline = time.monotonic() + 300
    while images(out) < count:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, os.waitstatus_to_exitcode(status)
            return False
        assert time.monotonic() < deadline, "the job hangs"
        time.sleep(0.005)
    return True


def survive(command: list[str], out: Path, workers: int, head: tuple[int, str], kills: int) -> dict[str, int]:
    """Kill the job while it works; how many kills of each kind hit it. A job that got through starts anew."""
    rng, hits, child = random.Random(workers), {"driver": 0, "all": 0, "worker": 0}, 0
    expected = contents(out.parent / "plain")
    while sum(hits.values()) < kills:
        child = child or forked(command, out, workers, head[1])
        if not reached(out, child, min(images(out) + rng.randint(0, 2), SAMPLES)):
            assert contents(out) == expected
            shutil.rmtree(out)
            child = 0
            continue
        time.sleep(rng.uniform(0.0, 0.3))
        kind = rng.choice(list(hits))
        workers_now = worker_pids(head[0])
        victims = {"driver": [child], "all": [child, *workers_now], "worker": workers_now[:1]}[kind]
        hits[kind] += sum(map(killed, victims)) == len(victims) > 0
        if kind != "worker":
            os.waitpid(child, 0)
            child = 0
        if kind == "all" and out.exists():
            check_present("generate", out, expected)
    assert waited(child or forked(command, out, workers, head[1])) == 0
    assert contents(out) == expected, f"{workers} workers"
    assert main(["generate", "--verify", str(out)]) == 0
    return hits


def killed(pid: int) -> bool:
    """SIGKILL; False when the process was gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def run(root: Path, tiny_sd: Path, kills: int) -> None:
    torch.set_num_threads(1)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}  # of this cluster alone
    busy = {"RAY_health_check_failure_threshold": "60", "RAY_worker_niceness": "0"}  # a busy machine is no dead node
    os.environ |= {**token, **busy}
    import ray.data  # noqa: F401 - once, before the forks

    command = prepare(root, tiny_sd)
    Job(command).run(root / "plain")
    with cluster() as head:
        hits = [survive(command, root / f"workers{n}", n, head, kills) for n in (1, 2)]
    print(f"survived {sum(hits[0].values())} kills with one worker, {sum(hits[1].values())} with two: {hits}")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
