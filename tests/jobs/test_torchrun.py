"""The torchrun engine: the same bytes as one process, with gloo on the CPU."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from kills import free_port

from perception.jobs.manifest import read_manifest

SCRIPT = Path(__file__).with_name("slow_job.py")


def content(out: Path) -> dict[str, bytes]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_two_ranks_write_the_bytes_of_one_process_and_finish_its_killed_run(tmp_path):
    local, ranks = tmp_path / "local", tmp_path / "ranks"
    subprocess.run([sys.executable, SCRIPT, local, "31", "local"], check=False, capture_output=True)
    subprocess.run([sys.executable, SCRIPT, ranks, "5", "local"], check=True, capture_output=True)
    (ranks / "manifest.jsonl").rename(ranks / "manifest.rank00007.jsonl")  # as a killed run of 8 ranks leaves it
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    done = subprocess.run([*command, ranks, "31", "torchrun"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # item 13 fails; rank 0 alone says so, after the merge
    assert "25 done, 5 already there, 1 failed" in done.stdout and done.stdout.count("already") == 1
    assert content(ranks) == content(local)
    assert [record.get("square") for record in read_manifest(ranks)] == [None if n == 13 else n * n for n in range(31)]


def test_ctrl_c_ends_a_rank_whose_peers_do_not_come(tmp_path):
    port = free_port()
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, SCRIPT, tmp_path / "out", "3", "torchrun"]
    job = subprocess.Popen(command, env={**os.environ, **ranks}, stderr=subprocess.PIPE, text=True)
    try:
        await_listener(port)
        job.send_signal(signal.SIGINT)
        _, printed = job.communicate(timeout=30)
    finally:
        job.kill()
    assert job.returncode and "KeyboardInterrupt" in printed


def await_listener(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("rank 0 waits for nobody")
