"""The Ray engine on a cluster of two CPUs: the same bytes as one process, whatever happens to its workers."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from perception.errors import PromptTooLongError, UserError
from perception.jobs import Item, JobOptions, Outcome, run_job
from perception.jobs.contract import RayOptions
from perception.jobs.manifest import part_path
from perception.jobs.ray import LIVES, Pool, RayWorker, _connect, _pool


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def counting(mood: str = "calm", marks: Path | None = None):
    """The class of a predictor; made inside a function, so that it travels by value."""

    class Counting:
        fingerprint = mood

        def __init__(self):
            self.options = {"mood": mood}
            if mood == "long":
                raise PromptTooLongError("a prompt of 90 tokens")

        def prepare(self, item):
            if item.id == "013":
                raise UserError("It is unlucky.")
            return item.path.read_text()

        def __call__(self, batch):
            time.sleep(0.01 * len(batch))
            if mood == "mortal" and len(batch) > 1:
                raise MemoryError
            if mood == "wrong":
                raise KeyError("a bug")
            mark = None if marks is None else marks / batch[0]
            if mark is not None and batch[0] in ("text 4", "text 20") and not (mood == "mortal" and mark.exists()):
                mark.touch()
                os._exit(1)
            return [Outcome({"length": len(text)}, {f"files/{text}.txt": text.encode()}) for text in batch]

    return Counting


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Function (out, predictor class, options) that runs a job of 30 items, with paths relative to a folder."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    items = [Item(f"{number:03d}", Path(f"in/{number}.txt")) for number in range(30)]
    for number, item in enumerate(items):
        item.path.write_text(f"text {number}")

    def run(out: str, build, count: int = 30, engine: str = "ray", **options):
        settings = {"batch_size": 2, "progress": False, "ray": RayOptions(workers=2, gpus=0)} | options
        return run_job(items[:count], build, JobOptions(Path(out), engine=engine, **settings))

    return run


def content(out: str) -> dict[str, bytes]:
    paths = [path for path in Path(out).rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_two_workers_write_the_bytes_of_one_process_and_finish_its_run(cluster, job, capsys):
    job("local", counting(), engine="local")
    job("ray", counting(), count=5, engine="local")
    Path("ray/manifest.jsonl").rename(part_path(Path("ray"), 7))  # as a killed run of several workers leaves it
    summary = job("ray", counting(), progress=True)
    assert (summary.total, summary.done, summary.failed, summary.skipped, summary.exit_code) == (30, 24, 1, 5, 1)
    assert summary.reasons == ("013: It is unlucky.",)
    assert content("ray") == content("local")
    assert "30/30" in capsys.readouterr().err
    assert len(list(Path("ray").glob(".rank*.lock"))) == 3  # the driver and two workers


def test_dead_workers_and_full_memory_cost_nothing(cluster, job, tmp_path):
    job("local", counting("mortal"), engine="local")
    assert job("ray", counting("mortal", tmp_path)).done == 29
    assert (tmp_path / "text 4").exists() and (tmp_path / "text 20").exists()
    assert content("ray") == content("local")


def test_a_user_error_of_a_worker_ends_the_job(cluster, job):
    job("calm", counting(), count=2, engine="local")
    with pytest.raises(UserError, match=r"made with mood = 'calm' \(now 'other'\); choose another --out"):
        job("calm", counting("other"), ray=RayOptions(workers=1))


def test_other_errors_are_raised_with_the_first_lot(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker enters its job's folder, here in this process: come back at the end
    items = [Item("a", tmp_path / "a.txt")]
    items[0].path.write_text("text")

    def answer(build, folder=tmp_path):
        options = JobOptions(tmp_path / "out", engine="ray")
        (report,) = RayWorker(ray.put((items, build, options)), str(folder), 9)({"first": [0], "last": [1]})["report"]
        return pickle.loads(report)

    told = answer(counting("long"))
    assert isinstance(told, PromptTooLongError) and told.fact == "a prompt of 90 tokens"
    assert "all nodes must see the files of the job under the same paths" in str(answer(counting(), tmp_path / "none"))
    with pytest.raises(KeyError, match="a bug"):
        answer(counting("wrong"))


def test_an_item_that_kills_every_worker_ends_the_job(cluster, job, tmp_path):
    with pytest.raises(UserError, match="Ray workers died again and again, as they do when memory runs out"):
        job("deadly", counting("deadly", tmp_path), ray=RayOptions(workers=1), batch_size=1)
    assert len(list(Path("deadly").glob("manifest.rank*"))) == LIVES + 2


@pytest.mark.parametrize(
    ("options", "shared", "pool"),
    [
        ({}, False, Pool(4, 4, 1.0)),
        ({}, True, Pool(4, 1, 1.0)),
        ({"gpus": 0.5}, False, Pool(8, 2, 0.5)),
        ({"gpus": 0.0}, False, Pool(1, 16, 0.0)),
        ({"workers": 3, "cpus": 2}, False, Pool(3, 2, 1.0)),
    ],
)
def test_a_pool_takes_what_the_cluster_has(options, shared, pool):
    assert _pool({"CPU": 16.0, "GPU": 4.0}, RayOptions(**options), shared=shared) == pool


def test_impossible_pools_are_one_sentence(monkeypatch, job):
    with pytest.raises(UserError, match="asks for 1 CPUs and 1 GPUs, but the cluster has 2 and 0 in all"):
        _pool({"CPU": 2.0}, RayOptions(gpus=1, cpus=1), shared=True)
    with pytest.raises(UserError, match="workers of the Ray workers is 0; it must be at least 1"):
        RayOptions(workers=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=re.escape("install it with `pip install 'perception[ray]'`")):
        job("none", counting())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started by torchrun, but the engine is 'ray'"):
        job("none", counting())


def test_a_cluster_that_is_not_there_is_one_sentence():
    class Absent:
        @staticmethod
        def init(address, **options):
            raise ConnectionError("nothing at that address\nand a long story")

    with pytest.raises(UserError, match=r"cluster at 10\.0\.0\.9:1 cannot be joined \(nothing at that address\)"):
        _connect(Absent, RayOptions(address="10.0.0.9:1"))


def test_prompt_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(PromptTooLongError("too many tokens")))
    assert error.fact == "too many tokens" and str(error).count("shorten it") == 1


LISTENING = """
import os, sys
from contextlib import suppress
from pathlib import Path
import psutil
from perception.jobs import Item, JobOptions, Outcome, run_job

class Looking:
    fingerprint = "looking"
    def prepare(self, item):
        return item.id
    def __call__(self, batch):
        driver = psutil.Process(int(os.environ["DRIVER"]))
        heard = []
        for process in (driver, *driver.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                heard += [c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"]
        return [Outcome({"heard": sorted(set(heard)), "sockets": len(heard)}) for _ in batch]

os.environ["DRIVER"] = str(os.getpid())
run_job([Item("a", None)], Looking, JobOptions(Path(sys.argv[1]), engine="ray", progress=False))
"""


def test_a_cluster_of_its_own_is_heard_on_this_machine_alone(tmp_path):
    command = [sys.executable, "-c", LISTENING, str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (line,) = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert line["sockets"] >= 3 and {ip.removeprefix("::ffff:") for ip in line["heard"]} == {"127.0.0.1"}
