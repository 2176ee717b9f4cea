"""Jobs of the command line that are killed at random moments, and the same command again.

PERCEPTION_KILLS=20 is the long form: 20 kills of classify, extract and generate, 5 of every other command, each with
one worker and with two. The short form kills the three main commands twice with either number of workers.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_jobs import script_environment

SCRIPT = Path(__file__).with_name("command_kills.py")
KILLS = int(os.environ.get("PERCEPTION_KILLS", "2"))


def test_kills_lose_double_and_corrupt_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "kills"), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=script_environment())
    assert done.returncode == 0, done.stderr + done.stdout
    hits = sum(map(int, re.findall(r"'SIG[A-Z]+': (\d+)", done.stdout)))
    assert hits == 2 * (3 * KILLS + 5 * (KILLS // 4))
