"""The same bytes from a second run, from two torchrun ranks and from two Ray workers, for every command that writes.

Ray starts its workers anew for every command: two of them stand for all but in the long form (PERCEPTION_KILLS).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_jobs import contents, script_environment

from perception.commands.main import main

COMMANDS = ("extract", "classify", "segment", "referring", "depth", "match", "generate", "score")
ON_RAY = COMMANDS if "PERCEPTION_KILLS" in os.environ else ("extract", "classify")
CASES = [*(("torchrun", name) for name in COMMANDS), *(("ray", name) for name in ON_RAY)]
SCRIPT = Path(__file__).parents[1] / "support" / "both_engines.py"


@pytest.fixture(scope="module")
def engines(tiny_commands, tmp_path_factory) -> Path:
    """A folder with the outputs of all commands by two ranks and by two Ray workers: torchrun-NAME, ray-NAME.

    As deep as those of one process, for outputs that hold relative paths.
    """
    root = tmp_path_factory.mktemp("engines")
    for engine, names in (("torchrun", COMMANDS), ("ray", ON_RAY)):
        (root / f"{engine}.json").write_text(json.dumps({name: tiny_commands[name] for name in names}))
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start in ([*ranks, str(SCRIPT), str(root), "torchrun"], [sys.executable, str(SCRIPT), str(root), "ray"]):
        done = subprocess.run(start, capture_output=True, text=True, check=False, env=script_environment())
        assert done.returncode == 0, done.stderr[-5000:]
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_run_writes_the_same_bytes(name, finished_job, tiny_commands, tmp_path):
    assert main([*tiny_commands[name], "--out", str(tmp_path / "out")]) == 0
    compare(contents(tmp_path / "out"), contents(finished_job(name)))


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_two_workers_write_the_bytes_of_one_process(name, engine, finished_job, engines):
    compare(contents(engines / f"{engine}-{name}"), contents(finished_job(name)))


def compare(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
