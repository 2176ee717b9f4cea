"""The tensor store: what is put comes back, from any process, and never half."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc

import pytest
import torch

from perception.data.files import NoSpaceError
from perception.data.store import TensorStore, feature_key, maintenance
from perception.data.store.maintenance import collect_garbage, store_stat, verify_store
from perception.data.store.shards import ShardReader, read_index
from perception.errors import UserError


def entry(value: float, size: int = 8) -> dict[str, torch.Tensor]:
    return {"up_blocks.1": torch.full((2, size), float(value)), "latent": torch.full((size,), -float(value))}


def shards(root):
    return sorted((root / "shards").glob("*.safetensors"))


def filled(root, *keys, **options) -> TensorStore:
    with TensorStore(root, **options) as store:
        for number, key in enumerate(keys):
            store.put(key, entry(number))
    return store


def test_what_was_put_comes_back_before_and_after_flush_in_its_order(tmp_path):
    store = TensorStore(tmp_path)
    store.put("a", entry(1.5))
    for _ in range(2):
        got = store.get("a")
        assert list(got) == ["up_blocks.1", "latent"]
        assert got["up_blocks.1"].dtype == torch.float16
        assert torch.equal(got["up_blocks.1"], torch.full((2, 8), 1.5, dtype=torch.float16))
        store.flush()
    assert store.get("b") is None and "b" not in store and "a" in store and len(store) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, None])
def test_floats_take_the_dtype_of_the_store_and_integers_keep_theirs(tmp_path, dtype):
    values = {"float": torch.randn(3, 4, dtype=torch.float64), "int": torch.arange(5), "scalar": torch.tensor(2.0)}
    with TensorStore(tmp_path, dtype=dtype) as store:
        store.put("a", values)
    got = TensorStore(tmp_path, read_only=True).get("a")
    assert torch.equal(got["float"], values["float"].to(dtype or torch.float64))
    assert torch.equal(got["int"], values["int"])
    assert got["scalar"].shape == ()


def test_a_result_can_be_changed_without_changing_the_store(tmp_path):
    store = TensorStore(tmp_path)
    store.put("a", entry(1))
    for _ in range(2):
        store.get("a")["latent"].zero_()
        assert store.get("a")["latent"][0] == -1
        store.flush()


def test_shards_are_written_when_full(tmp_path):
    store = TensorStore(tmp_path, shard_bytes=100)  # an entry has 48 bytes
    for number in range(7):
        store.put(str(number), entry(number))
    assert len(shards(tmp_path)) == 2
    store.close()
    assert len(shards(tmp_path)) == 3 and sorted(store.keys()) == list("0123456")


def test_other_readers_see_new_shards_at_once(tmp_path):
    reader = TensorStore(tmp_path)
    for key in "abc":
        assert key not in reader
        filled(tmp_path, key, key + "2")
        assert reader.get(key) is not None and key + "2" in reader


def test_the_same_content_is_one_shard_whoever_writes_it(tmp_path):
    filled(tmp_path, "a", "b")
    first = [path.read_bytes() for path in shards(tmp_path)]
    filled(tmp_path / "elsewhere", "a", "b")
    assert [path.read_bytes() for path in shards(tmp_path / "elsewhere")] == first


def test_several_writers_lose_nothing_and_pending_tensors_are_written_at_exit(tmp_path):
    script = """
import os, sys, torch
from perception.data.store import TensorStore
children, last = [], TensorStore(sys.argv[1])
for writer in range(3):
    if not (pid := os.fork()):
        with TensorStore(sys.argv[1], shard_bytes=2000) as store:
            for number in range(40):
                store.put(f"{writer % 2}-{number}", {"x": torch.full((50,), float(number))})
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
last.put("pending", {"x": torch.ones(1)})
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    store = TensorStore(tmp_path, read_only=True)
    assert sorted(store.keys()) == sorted([*(f"{w}-{n}" for w in (0, 1) for n in range(40)), "pending"])
    assert all(store.get(f"{w}-{n}")["x"][0] == n for w in (0, 1) for n in range(40))
    assert verify_store(tmp_path).ok


def test_threads_share_one_store(tmp_path):
    store = TensorStore(tmp_path, shard_bytes=1000)

    def work(thread: int) -> None:
        for number in range(50):
            store.put(f"{thread}-{number}", entry(number))
            assert store.get(f"{thread}-{number}")["latent"][0] == -number

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 100


def test_get_reads_only_its_own_bytes(tmp_path, monkeypatch):
    filled(tmp_path, *"abcdefgh")
    asked = []
    read = ShardReader.read
    monkeypatch.setattr(ShardReader, "read", lambda self, key, names: asked.append(key) or read(self, key, names))
    monkeypatch.setattr("safetensors.torch.load_file", None)
    assert TensorStore(tmp_path, read_only=True).get("c")["latent"][0] == -2 and asked == ["c"]


def test_worker_processes_get_a_read_only_view(tmp_path):
    copy = pickle.loads(pickle.dumps(filled(tmp_path, "a")))
    assert copy.get("a") is not None
    with pytest.raises(UserError, match="opened read-only; open it with read_only=False"):
        copy.put("b", entry(1))


@pytest.mark.parametrize("value", [1e6, float("nan"), float("-inf")])
def test_values_beyond_the_dtype_are_refused(tmp_path, value):
    with pytest.raises(
        UserError, match=r"Tensor 'x' has values that are not finite in float16 .*use a bfloat16 or float32"
    ):
        TensorStore(tmp_path).put("a", {"x": torch.tensor([1.0, value])})


@pytest.mark.parametrize("key", ["", "a/b"])
def test_keys_without_meaning_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="a store key is a non-empty string"):
        TensorStore(tmp_path).put(key, {})


def test_folders_that_are_no_store_of_this_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a tensor store \(it has no store\.json\)"):
        TensorStore(tmp_path, read_only=True)
    TensorStore(tmp_path / "half", dtype=torch.float16)
    with pytest.raises(UserError, match="holds float16, not float32; open it with that dtype"):
        TensorStore(tmp_path / "half", dtype=torch.float32)
    for content in ("{", "[]", '{"format": 1}'):
        (tmp_path / "half" / "store.json").write_text(content)
        with pytest.raises(UserError, match="not readable as the settings of a tensor store"):
            TensorStore(tmp_path / "half")
    (tmp_path / "half" / "store.json").write_text(json.dumps({"format": 2, "dtype": "float16"}))
    with pytest.raises(UserError, match="this version reads format 1"):
        TensorStore(tmp_path / "half")


def test_a_store_that_could_not_be_opened_again_is_not_made(tmp_path):
    with pytest.raises(UserError, match="cannot hold float64; choose one of float16, bfloat16, float32"):
        TensorStore(tmp_path, dtype=torch.float64)
    assert not (tmp_path / "store.json").exists()


def test_a_full_disk_is_one_sentence_and_the_rest_can_be_flushed_later(tmp_path, monkeypatch):
    store = TensorStore(tmp_path)
    store.put("a", entry(1))
    with monkeypatch.context() as patch:

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match=r"No space left in .*shards: free space and run the same command again"):
            store.flush()
    assert list((tmp_path / "shards").iterdir()) == []
    store.flush()
    assert TensorStore(tmp_path, read_only=True).get("a") is not None


def test_a_full_disk_at_exit_is_one_line_and_the_other_stores_are_written(tmp_path):
    script = """
import os, sys, torch
from perception.data import files
from perception.data.store import TensorStore, shards
def write(path, content):
    if "spent" in str(path):
        raise files.NoSpaceError(f"No space left in {path.parent}.")
    files.write_atomic(path, content)
shards.write_atomic = write
stores = [TensorStore(os.path.join(sys.argv[1], name)) for name in ("spent_1", "good_1", "spent_2", "good_2")]
for store in stores:
    store.put("a", {"x": torch.ones(1)})
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert sorted(line.split(":")[0] for line in done.stderr.splitlines()) == [
        f"{tmp_path / name} is left without what was computed last" for name in ("spent_1", "spent_2")
    ]
    assert all("a" in TensorStore(tmp_path / name, read_only=True) for name in ("good_1", "good_2"))


def test_verify_finds_a_flipped_bit_and_gc_with_check_drops_it(tmp_path):
    filled(tmp_path, "a")
    filled(tmp_path, "b", "c")
    path = next(path for path in shards(tmp_path) if b'"a/0"' in path.read_bytes())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = TensorStore(tmp_path)
    report = verify_store(tmp_path)
    assert not report.ok and report.shards == 2
    assert report.damaged == ((path.name, "its content does not match its name"),)
    kept = collect_garbage(tmp_path)
    assert kept.damaged == kept.duplicates == kept.evicted == ()
    assert collect_garbage(tmp_path, check=True).damaged == (path.name,)
    assert sorted(store.keys()) == ["b", "c"]


def test_gc_drops_shards_whose_keys_are_all_elsewhere(tmp_path):
    filled(tmp_path, "a")
    filled(tmp_path, "b")
    both = TensorStore(tmp_path / "other")
    for number, key in enumerate("ab"):
        both.put(key, entry(number))
    both.flush()
    (path,) = shards(tmp_path / "other")
    path.rename(tmp_path / "shards" / path.name)
    reader = TensorStore(tmp_path)
    assert reader.get("a") is not None
    assert len(collect_garbage(tmp_path, dry_run=True).duplicates) == 2 and len(shards(tmp_path)) == 3
    report = collect_garbage(tmp_path)
    assert len(report.duplicates) == 2 and len(shards(tmp_path)) == 1
    assert report.kept_bytes == sum(path.stat().st_size for path in shards(tmp_path))
    assert reader.get("b") is not None


def test_gc_drops_the_oldest_shards_above_the_limit(tmp_path):
    for age, key in enumerate("abcd"):
        filled(tmp_path, key)
        newest = max(shards(tmp_path), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(0, 10**9 * (age + 1)))
    size = shards(tmp_path)[0].stat().st_size
    store = TensorStore(tmp_path)
    reader = TensorStore(tmp_path, read_only=True)
    assert reader.get("a") is not None
    report = collect_garbage(tmp_path, max_bytes=2 * size)
    assert len(report.evicted) == 2 and report.freed_bytes == 2 * size and report.kept_bytes == 2 * size
    assert sorted(store.keys()) == ["c", "d"]
    assert reader.get("b") is None and reader.get("c") is not None


@pytest.mark.parametrize("look", [store_stat, verify_store, lambda root: collect_garbage(root, max_bytes=0)])
def test_shards_that_another_process_deletes_meanwhile_are_passed_over(tmp_path, monkeypatch, look):
    filled(tmp_path, "a")
    filled(tmp_path, "b")

    def read_and_lose(path):
        index = read_index(path)
        path.unlink()
        return index

    monkeypatch.setattr(maintenance, "read_index", read_and_lose)
    look(tmp_path)
    assert shards(tmp_path) == []


def test_stat_counts(tmp_path):
    filled(tmp_path, "a", "b")
    stat = store_stat(tmp_path)
    size = shards(tmp_path)[0].stat().st_size
    assert stat == {
        "format": 1,
        "dtype": "float16",
        "shards": 1,
        "entries": 2,
        "tensors": 4,
        "bytes": size,
        "damaged": 0,
    }


def test_the_index_is_small(tmp_path):
    filled(tmp_path, *(feature_key(str(number), "backbone", {}) for number in range(5000)))
    tracemalloc.start()
    store = TensorStore(tmp_path, read_only=True)
    assert len(store) == 5000
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 5000 * 300  # bytes; the keys themselves take 113 each


def test_the_key_depends_on_image_backbone_and_spec_alone():
    spec = {"taps": ["mid_block"], "seed": 0}
    key = feature_key("image", "backbone", spec)
    assert key == feature_key("image", "backbone", dict(reversed(spec.items()))) and len(key) == 64
    others = [("other", "backbone", spec), ("image", "other", spec), ("image", "backbone", {**spec, "seed": 1})]
    assert len({key, *(feature_key(*other) for other in others)}) == 4
