"""Generate jobs on a Ray cluster that are killed at random points, and the same command again, as in the local test."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_jobs import script_environment

SCRIPT = Path(__file__).with_name("ray_kills.py")
LONG = int(os.environ.get("PERCEPTION_KILLS", "0"))  # of the main commands, see test_command_kill
KILLS = int(os.environ.get("PERCEPTION_RAY_KILLS", str(max(2, LONG // 4))))  # for either number; ten seconds each


def test_kills_lose_double_and_corrupt_nothing(tiny_sd, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "kills"), str(tiny_sd), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=script_environment())
    assert done.returncode == 0, done.stderr
    one, two = map(
        int, re.findall(r"\d+ kills with one worker, \d+", done.stdout)[-1].split(" kills with one worker, ")
    )
    assert (one, two) == (KILLS, KILLS)
