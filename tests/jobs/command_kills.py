"""Kills jobs of all commands at random moments and reruns them: `command_kills.py FOLDER KILLS`.

KILLS of each of `classify`, `extract` and `generate`, a quarter of that of the others, with one worker and with two.
Prints how many signals hit.
"""

import sys
import time
from pathlib import Path

import torch
from kills import Job, check_same, survive
from tiny_jobs import contents, tiny_jobs

from perception.commands.main import main

MAIN = ("classify", "extract", "generate")
ITEMS = 6


def small_steps(name: str, command: list[str]) -> list[str]:
    """The command with a batch per image, so that there are many moments to be killed at."""
    return [*command, "--batch-size", "1"] if name in ("extract", "match") else command


def run(root: Path, kills: int) -> None:
    """Kill every command."""
    torch.set_num_threads(1)
    for name, line in tiny_jobs(root / "in", ITEMS).items():
        wanted = kills if name in MAIN else kills // 4
        if not wanted:
            continue
        command = small_steps(name, line)
        (root / name).mkdir()
        status = main([*command, "--out", str(root / name / "plain")])  # in this process: forks need import nothing
        assert status == 0
        started = time.monotonic()
        Job(command).run(root / name / "again")
        seconds = time.monotonic() - started
        expected = contents(root / name / "plain")
        check_same(name, contents(root / name / "again"), expected)
        for workers in (1, 2):
            hits = survive(name, Job(command, workers), root / name / f"out{workers}", expected, wanted, seconds)
            assert hits.total() == wanted, f"{name}: the kills came when the jobs were through"
            print(f"{name}, {workers} workers: survived {dict(hits)}", flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
