"""The job runner: every item once, whatever happens in between."""

import errno
import json
import os
import tracemalloc

import pytest
from filelock import FileLock

from perception.data.files import NoSpaceError
from perception.errors import UserError
from perception.jobs import Item, JobOptions, Outcome, image_items, run_job
from perception.jobs.manifest import read_manifest
from perception.jobs.progress import Pace
from perception.jobs.rank import lot_size, lots_of


def records(desk):
    return {record["id"]: record for record in read_manifest(desk.out)}


def test_every_item_gets_its_files_and_one_line_in_item_order(desk):
    summary = desk.run(seed=7)
    assert (summary.total, summary.done, summary.failed, summary.skipped) == (10, 10, 0, 0)
    assert summary.exit_code == 0 and "10 done, 0 already there, 0 failed" in summary.render()
    lines = list(read_manifest(desk.out))
    assert [line["id"] for line in lines] == [item.id for item in desk.items]
    first = lines[0]
    assert list(first) == ["id", "status", "output", "seed", "hash", "versions", "length"]
    assert first["status"] == "done" and first["seed"] == 7 and first["length"] == 8
    assert first["output"] == ["shouts/text-000.txt"] and len(first["hash"]) == 64
    assert set(first["versions"]) == {"perception", "torch", "diffusers"}
    assert desk.files()["shouts/text-003.txt"] == b"TEXT-003"
    assert set(desk.files()) == {"manifest.jsonl", "job.json", *(f"shouts/text-{n:03d}.txt" for n in range(10))}


def test_the_manifest_does_not_depend_on_batches_workers_or_commits(desk, tmp_path):
    manifests = set()
    for number, options in enumerate(
        [{}, {"batch_size": 1}, {"batch_size": 64, "workers": 8}, {"commit_seconds": 60.0}]
    ):
        desk.out = tmp_path / f"out{number}"
        desk.run(**options)
        manifests.add(desk.files()["manifest.jsonl"])
    assert len(manifests) == 1


def test_batches_are_cut_by_place_so_that_a_rest_is_called_as_it_would_have_been(desk, shouter):
    every, desk.items = desk.items, desk.items[:5]
    desk.run()
    desk.items, rest = every, shouter()
    desk.run(rest)
    assert rest.batches == [["text-005"], ["text-006", "text-007", "text-008"], ["text-009"]]


def test_ranks_take_whole_lots_of_the_list():
    items = [Item(id=str(number)) for number in range(11)]
    ids = [[item.id for item in lots_of(items, 2, rank, 3)] for rank in range(3)]
    assert ids == [["0", "1", "6", "7"], ["2", "3", "8", "9"], ["4", "5", "10"]]
    assert lots_of(items, 16, 0, 2) == items and lots_of(items, 16, 1, 2) == []


@pytest.mark.parametrize(
    ("items", "batch_size", "lot"), [(5, 8, 8), (1000, 8, 8), (2000, 8, 24), (100_000, 8, 128), (100_000, 1, 16)]
)
def test_lots_are_small_beside_the_job_and_hold_whole_batches(items, batch_size, lot):
    assert lot_size(items, batch_size) == lot


def test_running_again_does_nothing_and_new_items_are_added(desk, shouter):
    desk.run()
    before = desk.files()
    again = shouter()
    summary = desk.run(again)
    assert (summary.done, summary.skipped, again.batches, again.prepared) == (0, 10, [], [])
    assert desk.files() == before
    desk.items.insert(0, desk.item("zzz"))
    assert desk.run().done == 1
    assert next(iter(records(desk))) == "zzz.txt" and len(records(desk)) == 11


def test_a_changed_file_is_redone_and_so_is_one_whose_output_is_gone(desk):
    desk.run()
    desk.item("004", "other")
    (desk.out / "shouts" / "text-006.txt").unlink()
    summary = desk.run()
    assert (summary.done, summary.skipped) == (2, 8)
    assert records(desk)["004.txt"]["output"] == ["shouts/other.txt"]
    assert (desk.out / "shouts" / "text-006.txt").exists()


def test_a_predictor_may_declare_a_result_gone(desk, shouter):
    desk.run()
    picky = shouter()
    picky.still_valid = lambda record: record["id"] != "005.txt"
    assert desk.run(picky).done == 1


def test_an_empty_output_is_made_again(desk):
    desk.run()
    whole = desk.files()
    (desk.out / "shouts/text-003.txt").write_bytes(b"")
    assert desk.run().done == 1 and desk.files() == whole


def test_a_passing_fault_on_resume_leaves_the_earlier_result(desk, shouter):
    desk.run()
    whole = desk.files()
    path = desk.items[3].path
    away = path.rename(path.with_suffix(".away"))
    summary = desk.run()
    assert (summary.failed, summary.skipped, summary.exit_code) == (1, 9, 1)
    assert "003.txt cannot be read" in summary.reasons[0] and desk.files() == whole

    predictor = shouter()
    predictor.still_valid = lambda record: (_ for _ in ()).throw(UserError("Its photo is gone."))
    assert desk.run(predictor).failed == 10 and desk.files() == whole
    (desk.out / "shouts/text-003.txt").unlink()
    assert desk.run().failed == 1
    assert [key for key, record in records(desk).items() if record["status"] == "failed"] == ["003.txt"]
    away.rename(path)
    assert desk.run().done == 1 and desk.files() == whole


def test_a_bad_item_costs_one_line_and_is_retried(desk):
    desk.item("002", "")
    desk.items.append(Item(id="none.txt", path=desk.inputs / "none.txt"))
    summary = desk.run()
    assert (summary.done, summary.failed, summary.exit_code) == (9, 2, 1)
    bad = records(desk)["002.txt"]
    assert (bad["status"], bad["reason"], bad["output"]) == ("failed", "002.txt is empty.", [])
    assert "002.txt: 002.txt is empty." in summary.render()
    assert records(desk)["none.txt"]["hash"] is None and "No such file" in records(desk)["none.txt"]["reason"]
    desk.item("002", "mended")
    summary = desk.run()
    assert (summary.done, summary.failed, summary.skipped) == (1, 1, 9)
    assert records(desk)["002.txt"]["status"] == "done" and "reason" not in records(desk)["002.txt"]


def test_only_the_first_failures_are_shown(desk):
    for number in range(10):
        desk.item(f"{number:03d}", "")
    shown = desk.run().render().splitlines()
    assert len(shown) == 7 and shown[-1] == "... and 5 more failures, see the manifest"


def test_out_of_memory_changes_no_result(desk, shouter, tmp_path):
    desk.run()
    plain = desk.files()["manifest.jsonl"]
    desk.out = tmp_path / "small"

    def too_many(batch):
        if len(batch) > 2 or ("text-007" in batch and len(batch) > 1):
            raise MemoryError

    assert desk.run(shouter(on_batch=too_many), batch_size=8).done == 10
    assert desk.files()["manifest.jsonl"] == plain


def test_an_item_that_does_not_fit_alone_fails_alone(desk, shouter):
    def never_seven(batch):
        if "text-007" in batch:
            raise RuntimeError("CUDA out of memory.")

    summary = desk.run(shouter(on_batch=never_seven))
    assert (summary.done, summary.failed) == (9, 1)
    assert "does not fit into memory even alone" in records(desk)["007.txt"]["reason"]


def test_items_of_a_stream_are_committed_one_by_one_as_they_end(desk, stream_shouter):
    """The second of every two ends first; the manifest has the order of the list all the same."""
    seen = []

    def look(texts):
        part = desk.out / "manifest.rank00000.jsonl"
        seen.append([json.loads(line)["id"][:3] for line in part.read_text().splitlines()])

    desk.run(stream_shouter(on_batch=look), batch_size=2, commit_seconds=0)
    assert seen[:5] == [[], ["001"], ["001", "000"], ["001", "000", "003"], ["001", "000", "003", "002"]]
    assert [line["id"] for line in read_manifest(desk.out)] == [item.id for item in desk.items]


def test_an_interrupted_stream_keeps_what_has_ended(desk, stream_shouter):
    def interrupt(texts):
        if "text-004" in texts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.run(stream_shouter(on_batch=interrupt), batch_size=2, commit_seconds=60.0)
    assert (desk.out / "manifest.rank00000.jsonl").read_bytes().count(b"\n") == 4
    summary = desk.run(stream_shouter(), batch_size=2)
    assert (summary.done, summary.skipped) == (6, 4)


def test_what_has_ended_is_committed_in_time_while_the_next_item_takes_long(desk, stream_shouter, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("perception.jobs.rank.time.monotonic", lambda: now[0])
    part, seen = desk.out / "manifest.rank00000.jsonl", []

    class Slow(stream_shouter):
        def stream(self, samples, together):
            for number, text in samples:
                for _ in range(3):
                    now[0] += 2.0
                    yield None
                    seen.append(part.read_bytes().count(b"\n"))
                yield number, self([text])[0]

    desk.items = desk.items[:3]
    desk.run(Slow(), commit_seconds=5.0)
    assert seen == [0, 0, 0, 0, 0, 1, 1, 1, 2]
    seen.clear()
    desk.out = desk.out.parent / "rare"
    part = desk.out / "manifest.rank00000.jsonl"
    desk.run(Slow(), commit_seconds=9.0)
    assert seen == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_stream_without_memory_goes_on_with_fewer_and_an_item_that_never_fits_fails_alone(desk, stream_shouter):
    def never_seven(texts):
        if "text-007" in texts or len(texts) > 2:
            raise RuntimeError("CUDA out of memory.")

    summary = desk.run(stream_shouter(on_batch=never_seven), batch_size=5)
    assert (summary.done, summary.failed) == (9, 1)
    assert "does not fit into memory even alone" in records(desk)["007.txt"]["reason"]


def test_items_of_different_lots_never_meet(desk, stream_shouter):
    predictor = stream_shouter()
    desk.run(predictor, batch_size=3)
    assert {frozenset(int(text[-3:]) // 3 for text in batch) for batch in predictor.batches} == {
        frozenset([lot]) for lot in range(4)
    }


def test_other_options_are_refused_with_the_difference(desk, shouter):
    desk.run()
    with pytest.raises(
        UserError, match=r"made with tone = 'shout-1' \(now 'shout-2'\); choose another --out, or delete"
    ):
        desk.run(shouter("shout-2"))
    other = shouter("shout-3")
    other.options = {"tone": "shout-1"}
    with pytest.raises(UserError, match="holds results made with another model; choose another --out"):
        desk.run(other)
    (desk.out / "job.json").write_text("{")
    with pytest.raises(UserError, match=r"job\.json is not readable as the settings of a job"):
        desk.run()


def test_two_processes_cannot_write_to_the_same_out(desk):
    desk.out.mkdir()
    with (
        FileLock(desk.out / ".rank00000.lock"),
        pytest.raises(UserError, match=r"Another process is writing to .*; wait for it, or choose another --out"),
    ):
        desk.run()
    assert desk.run().done == 10


def test_an_interrupt_keeps_what_is_finished(desk, shouter):
    def interrupt(batch):
        if "text-006" in batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.run(shouter(on_batch=interrupt), commit_seconds=60.0)
    assert "manifest.rank00000.jsonl" in desk.files()
    summary = desk.run()
    assert (summary.done, summary.skipped) == (4, 6)
    assert len(records(desk)) == 10


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_stops_with_one_sentence_and_the_rerun_completes(desk, monkeypatch, tmp_path, call):
    real, calls = getattr(os, call), 0

    def full_later(*args):
        nonlocal calls
        calls += 1
        if calls > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full_later)
        with pytest.raises(NoSpaceError, match=r"^No space left in .*: free space and run the same command again\.$"):
            desk.run()
    assert not [name for name in desk.files() if name.endswith(".tmp")]
    desk.run()
    interrupted = desk.files()
    desk.out = tmp_path / "undisturbed"
    desk.run()
    assert desk.files() == interrupted


def test_flush_comes_before_the_lines_that_rely_on_it(desk, shouter):
    predictor, seen = shouter(), []
    part = desk.out / "manifest.rank00000.jsonl"
    predictor.flush = lambda: seen.append((len(predictor.batches), part.read_bytes().count(b"\n")))
    desk.run(predictor)
    assert seen == [(1, 0), (2, 3), (3, 6), (4, 9)]


def test_what_is_flushed_together_depends_on_the_items_and_not_on_the_clock(desk, shouter):
    """One lot is one shard, whatever --commit-seconds says."""
    desk.items = [desk.item(f"{number:03d}") for number in range(130)]
    predictor, seen = shouter(), []
    predictor.flush = lambda: seen.append(len(predictor.batches))
    desk.run(predictor, batch_size=1, commit_seconds=0)
    assert seen == list(range(2, 131, 2))


def test_results_that_are_no_json_fail_and_reserved_fields_are_bugs(desk, shouter):
    class Odd(shouter):
        def __call__(self, batch):
            return [Outcome(self.record) for _ in batch]

    odd = Odd()
    odd.record = {"score": float("nan")}
    assert desk.run(odd).failed == 10
    assert "not a finite number" in records(desk)["000.txt"]["reason"]
    odd.record = {"hash": 1}
    with pytest.raises(ValueError, match=r"manifest fields \['hash'\]"):
        desk.run(odd)


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x"])
def test_outputs_stay_below_out(desk, shouter, path):
    class Escaping(shouter):
        def __call__(self, batch):
            return [Outcome({}, {path: b""}) for _ in batch]

    with pytest.raises(ValueError, match="must lie below OUT"):
        desk.run(Escaping())


def test_impossible_jobs_are_one_sentence(desk, tmp_path, shouter, monkeypatch):
    with pytest.raises(UserError, match="Two items have the id"):
        run_job([Item(id="a"), Item(id="a")], shouter, JobOptions(tmp_path / "o"))
    with pytest.raises(UserError, match="There are no items"):
        run_job([], shouter, JobOptions(tmp_path / "o"))
    with pytest.raises(UserError, match="Unknown engine 'slurm'; choose one of local, torchrun"):
        JobOptions(tmp_path, engine="slurm")
    with pytest.raises(UserError, match="batch_size is 0; it must be at least 1"):
        JobOptions(tmp_path, batch_size=0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        run_job(desk.items, shouter, JobOptions(tmp_path / "file" / "out"))
    with pytest.raises(UserError, match="The engine 'torchrun' needs RANK and WORLD_SIZE; start it as"):
        desk.run(engine="torchrun")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started by torchrun, but the engine is 'local'; add --engine torchrun"):
        desk.run()


def test_the_progress_bar_goes_to_stderr(desk, capsys):
    desk.run(progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "10/10" in captured.err


def test_the_bar_counts_items_that_are_through_and_not_those_that_are_read(desk, shouter, monkeypatch):
    told = []

    class Bar:
        def __enter__(self):
            return lambda count, earlier: told.append((count, earlier, len(predictor.batches)))

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("perception.jobs.runner.progress_bar", lambda *arguments: Bar())
    predictor = shouter()
    desk.run(predictor)
    assert told == [(1, 0, batch) for batch in (1, 1, 1, 2, 2, 2, 3, 3, 3, 4)]
    told.clear()
    desk.run(predictor)
    assert told == [(1, 1, 4)] * 10


def test_the_pace_is_that_of_this_run():
    now, spent = [0.0], [100]
    pace = Pace(10, lambda: spent[0], lambda: now[0])
    pace.add(4, 4)  # found finished
    assert pace.line() == ""
    now[0], spent[0] = 20.0, 500
    assert pace.line() == "20.0 evaluations/s"
    pace.add(2, 0)
    assert pace.line() == "20.0 evaluations/s, 0:00:40 left"
    pace.add(4, 0)
    assert pace.line() == "20.0 evaluations/s"
    assert Pace(3).line() == ""


class Heavy:
    """Prepares samples of 200 kB and forgets them."""

    fingerprint = "heavy"

    def prepare(self, item):
        return bytearray(200_000)

    def __call__(self, batch):
        return [Outcome({"bytes": len(sample)}) for sample in batch]


def peak_bytes(out, count: int) -> int:
    items = [Item(id=f"{number:05d}") for number in range(count)]
    tracemalloc.start()
    try:
        run_job(items, Heavy, JobOptions(out, batch_size=16, progress=False, commit_seconds=0.2))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_thousand_items_need_no_more_memory_than_a_hundred(tmp_path):
    hundred = peak_bytes(tmp_path / "hundred", 100)
    many = peak_bytes(tmp_path / "many", 10_000)
    assert hundred > 16 * 200_000  # the measurement sees samples
    assert many - hundred < 6_000_000  # ids and offsets; all samples would be 2 GB
    assert sum(1 for _ in read_manifest(tmp_path / "many")) == 10_000


def test_items_of_a_job_are_streamed_from_image_folders(tmp_path, shouter):
    (tmp_path / "in").mkdir()
    for name in "ba":
        (tmp_path / "in" / f"{name}.png").write_text(name)
    run_job(iter(image_items([tmp_path / "in"])), shouter, JobOptions(tmp_path / "out", progress=False))
    manifest = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in manifest] == ["a.png", "b.png"]
