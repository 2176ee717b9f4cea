"""Generate jobs that are killed at random points, and the same command again, with one worker and with two."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("generate_kills.py")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it: sums in one order


def test_twenty_kills_lose_double_and_corrupt_nothing(tiny_sd, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "kills"), str(tiny_sd)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    one, two, ends = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    assert (one, two) == (10, 10), "the kills came when the jobs were through"
    assert ends >= 10
