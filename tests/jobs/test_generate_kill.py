"""A generate job that is killed while it completes its data set, and the same command again."""

import re
import subprocess
import sys
from pathlib import Path

from tiny_jobs import script_environment

SCRIPT = Path(__file__).with_name("generate_kills.py")


def test_a_kill_at_every_disk_operation_of_the_end_costs_nothing(tiny_sd, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "kills"), str(tiny_sd)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=script_environment())
    assert done.returncode == 0, done.stderr
    (ends,) = map(int, re.findall(r"survived (\d+) kills", done.stdout))
    assert ends >= 10
