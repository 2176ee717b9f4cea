"""Generate jobs on a Ray cluster that are killed at random points, and the same command again, as in the local test."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("ray_kills.py")
KILLS = int(os.environ.get("PERCEPTION_RAY_KILLS", "2"))  # for either number of workers; each costs ten seconds
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in one order


def test_kills_lose_double_and_corrupt_nothing(tiny_sd, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "kills"), str(tiny_sd), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    one, two = map(
        int, re.findall(r"\d+ kills with one worker, \d+", done.stdout)[-1].split(" kills with one worker, ")
    )
    assert (one, two) == (KILLS, KILLS)
