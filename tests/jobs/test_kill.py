"""Jobs that are killed at any moment, and the same command again."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("slow_job.py")
COUNT = 240


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(out), str(COUNT), "local"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def content(out: Path) -> dict[str, bytes]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def lines_in_part(out: Path) -> int:
    try:
        return (out / "manifest.rank00000.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:  # not begun, or merged by the job that resumes
        return 0


def kill_after(out: Path, lines: int, how: signal.Signals) -> int:
    job, deadline = start(out), time.monotonic() + 60
    while lines_in_part(out) < lines:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    job.send_signal(how)
    job.communicate()
    return job.returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    _, errors = (job := start(out)).communicate()
    assert job.returncode == 1, errors
    return content(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_lost_doubled_or_half_written(tmp_path, undisturbed, how):
    out = tmp_path / "out"
    for lines in (20, 45):
        assert kill_after(out, lines, how) == -how
        present = content(out)
        claimed = [line for name in present if name.startswith("manifest") for line in present[name].splitlines()]
        assert len(claimed) >= lines
        for name in present:
            if name.startswith("files/") and not name.endswith(".tmp"):
                assert present[name] == undisturbed[name], "a half-written file has its final name"
    job = start(out)
    printed, errors = job.communicate()
    assert job.returncode == 1, errors  # three items fail
    finished = int(printed.split(" done, ")[1].split(" already there")[0])
    assert 65 - 2 <= finished < COUNT  # the lines of the first bad item, in both runs, are no results
    assert content(out) == undisturbed


def test_a_job_with_a_store_survives_a_kill_at_every_disk_operation(tmp_path):
    script = SCRIPT.with_name("crash_points.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(" at ")[1].split()[0]) > 25
