"""The output folder of a job: who may write to it, and the settings that it was made with."""

import json
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from perception.errors import UserError
from perception.jobs.folder import change, check_fingerprint, claim, claim_next_rank, read_settings
from perception.jobs.manifest import part_path


def test_the_next_run_waits_for_workers_of_a_killed_one(tmp_path, monkeypatch):
    orphan = FileLock(tmp_path / ".rank00003.lock", thread_local=False)
    orphan.acquire()
    monkeypatch.setattr("perception.jobs.folder.ORPHAN_SECONDS", 0.1)
    with pytest.raises(UserError, match="Another process is writing to"):
        claim(tmp_path, 0)
    claim(tmp_path, 0, world=4).release()  # rank 3 belongs to the same run
    monkeypatch.setattr("perception.jobs.folder.ORPHAN_SECONDS", 30.0)
    threading.Timer(0.3, orphan.release).start()
    started = time.monotonic()
    claim(tmp_path, 0).release()
    assert 0.2 < time.monotonic() - started < 10.0


def test_workers_take_ranks_that_nobody_has_or_had(tmp_path):
    first, lock = claim_next_rank(tmp_path)
    second, other = claim_next_rank(tmp_path)
    assert (first, second) == (1, 2) and part_path(tmp_path, 2).read_bytes() == b""
    lock.release()  # as when it dies: its part may end with half a line
    third, last = claim_next_rank(tmp_path)
    assert third == 3
    other.release()
    last.release()


def test_a_rank_that_lives_is_not_taken_again(tmp_path):
    first, lock = claim_next_rank(tmp_path)
    part_path(tmp_path, first).unlink()  # merged by somebody else: the lock alone says that it is taken
    script = "import sys, pathlib, perception.jobs.folder as f; print(f.claim_next_rank(pathlib.Path(sys.argv[1]))[0])"
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2
    lock.release()


def test_a_claim_gives_its_lock_back_when_others_do_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr("perception.jobs.folder.ORPHAN_SECONDS", 0.05)
    orphan = FileLock(tmp_path / ".rank00001.lock", thread_local=False)
    orphan.acquire()
    with pytest.raises(UserError, match="Another process is writing to"):
        claim(tmp_path, 0)
    orphan.release()
    claim(tmp_path, 0).release()
    with pytest.raises(UserError, match="cannot be written"):
        (tmp_path / "file").write_text("x")
        claim(tmp_path / "file" / "out", 0)


def test_folders_on_the_way_to_out_are_made(tmp_path):
    claim(tmp_path / "runs" / "today" / "out", 0).release()
    assert (tmp_path / "runs" / "today" / "out").is_dir()


def test_ranks_above_the_first_wait_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("perception.jobs.folder.ORPHAN_SECONDS", 0.05)
    orphan = FileLock(tmp_path / ".rank00009.lock", thread_local=False)
    orphan.acquire()
    claim(tmp_path, 1, world=2).release()
    orphan.release()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"options": []}', '{"fingerprint": 3, "options": {}}', "[" * 100_000, '{"x": NaN}']
)
def test_settings_that_cannot_be_read_are_one_sentence(tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(
        UserError, match=r"job\.json is not readable as the settings of a job \(.*\); choose another folder"
    ):
        check_fingerprint(tmp_path, "abc", {})


def test_settings_are_a_file(tmp_path):
    (tmp_path / "job.json").mkdir()
    with pytest.raises(UserError, match="it is no regular file"):
        read_settings(tmp_path)


def test_a_difference_is_told_in_a_few_words(tmp_path):
    check_fingerprint(tmp_path, "abc", {"size": 64, "prompt": "a" * 5000})
    assert read_settings(tmp_path) == ("abc", {"size": 64, "prompt": "a" * 5000})
    with pytest.raises(
        UserError, match=r"made with prompt = 'aaa.*, size = 64 \(now 32\); choose another --out"
    ) as told:
        check_fingerprint(tmp_path, "def", {"size": 32, "prompt": "b"})
    assert len(str(told.value)) < 700
    with pytest.raises(UserError, match="made with another model"):
        check_fingerprint(tmp_path, "def", {"size": 64, "prompt": "a" * 5000})
    deep = json.loads("[" * 900 + "]" * 900)
    assert len(change("x", {"x": deep}, {})) < 300


def test_settings_are_the_same_bytes_in_any_order_of_options(tmp_path):
    for name, options in (("a", {"seed": 0, "loss": "l2"}), ("b", {"loss": "l2", "seed": 0})):
        (tmp_path / name).mkdir()
        check_fingerprint(tmp_path / name, "f", options)
    assert (tmp_path / "a" / "job.json").read_bytes() == (tmp_path / "b" / "job.json").read_bytes()
