"""Stores whose shards are damaged, made up or no files: their own entries are gone, and nothing else."""

import json
import os
import struct

import pytest
import torch

from perception.backbones.stored import StoredRows
from perception.commands.main import main
from perception.data.store import TensorStore
from perception.data.store.maintenance import collect_garbage, store_stat, verify_store
from perception.errors import UserError

DEEP = b"[" * 100_000


def filled(root, *keys, value=None):
    with TensorStore(root) as store:
        for number, key in enumerate(keys):
            store.put(key, {"x": torch.full((2,), float(number if value is None else value))})


def shards(root):
    return sorted((root / "shards").iterdir())


def with_header(header, tail=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + tail


def header_of(content):
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def changed(edit):
    """A damage that edits the header, and leaves the tensors."""

    def damage(content):
        header = header_of(content)
        length = struct.unpack("<Q", content[:8])[0]
        edit(header)
        return with_header(header, content[8 + length :])

    return damage


def metadata(document):
    return changed(lambda header: header.update(__metadata__={"perception": document}))


NO_STORE = "its header is not that of a tensor store"
DAMAGES = {
    "one byte short": (lambda content: content[:-1], "file not fully covered"),
    "one byte long": (lambda content: content + b"x", "file not fully covered"),
    "half a header": (lambda content: content[:20], "header"),
    "empty": (lambda content: b"", "header"),
    "another length": (lambda content: content[:8] + b"x" + content[9:], "header"),
    "no entry": (lambda content: with_header({}), NO_STORE),
    "a list": (lambda content: with_header([]), "header"),
    "deep": (lambda content: with_header(DEEP), "header"),
    "an endless header": (lambda content: struct.pack("<Q", 2**63) + content[8:], "header"),
    "deep index": (metadata(DEEP.decode()), NO_STORE),
    "no index": (metadata("{}"), NO_STORE),
    "index of numbers": (metadata('{"index": {"a": 3}}'), NO_STORE),
    "index of a list": (metadata('{"index": ["a"]}'), NO_STORE),
    "index that lies": (metadata('{"index": {"a": ["x"], "zz": ["x"]}}'), "its index names 'zz'"),
    "index with more names": (metadata('{"index": {"a": ["x", "y"]}}'), "its index names 'a'"),
    "no offsets": (changed(lambda header: header["a/0"].pop("data_offsets")), "header"),
    "one offset": (changed(lambda header: header["a/0"].update(data_offsets=[0])), "header"),
    "offsets of texts": (changed(lambda header: header["a/0"].update(data_offsets=["0", "4"])), "header"),
    "offsets beyond 64 bits": (changed(lambda header: header["a/0"].update(data_offsets=[0, 10**30])), "header"),
    "an unknown type": (changed(lambda header: header["a/0"].update(dtype="F17")), "F17"),
    "another shape": (changed(lambda header: header["a/0"].update(shape=[3])), "header"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_loses_its_own_entries_alone(tmp_path, capsys, name):
    damage, _ = DAMAGES[name]
    filled(tmp_path, "a")
    (path,) = shards(tmp_path)
    filled(tmp_path, "b")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    store = TensorStore(tmp_path)
    assert store.get("b")["x"].tolist() == [0, 0]
    assert store.get("a") is None and "a" not in store
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"Shard {path} is damaged (" in told
    assert [name for name, _ in verify_store(store.root).damaged] == [path.name]
    filled(tmp_path, "a")  # makes the same shard again
    assert path.read_bytes() == whole
    again = TensorStore(tmp_path, read_only=True)
    assert verify_store(again.root).ok and again.get("a")["x"].tolist() == [0, 0]


@pytest.mark.parametrize("name", DAMAGES)
def test_the_reason_is_told_and_gc_drops_the_shard(tmp_path, name):
    damage, reason = DAMAGES[name]
    filled(tmp_path, "a")
    (path,) = shards(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    store = TensorStore(tmp_path)
    ((damaged, told),) = verify_store(store.root).damaged
    assert damaged == path.name and reason in told
    assert store_stat(store.root)["damaged"] == 1
    assert collect_garbage(store.root).damaged == (path.name,)
    assert store.get("a") is None and verify_store(store.root).ok


def test_a_key_that_is_in_a_whole_shard_too_is_read_from_there(tmp_path):
    filled(tmp_path, "a")
    filled(tmp_path / "other", "a", "b")
    for path in shards(tmp_path / "other"):
        path.rename(tmp_path / "shards" / path.name)
    store = TensorStore(tmp_path)
    assert store.get("a") is not None
    for path in shards(tmp_path):
        if b'"b/0"' not in path.read_bytes():
            path.write_bytes(path.read_bytes()[:-1])
    assert TensorStore(tmp_path).get("a")["x"].tolist() == [0, 0]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_no_shard(tmp_path, capsys, make):
    filled(tmp_path, "a")
    make(tmp_path / "shards" / "strange.safetensors")
    assert TensorStore(tmp_path).get("a") is not None
    assert main(["store", str(tmp_path), "stat"]) == 0
    assert main(["store", str(tmp_path), "verify"]) == 1
    assert "damaged: strange.safetensors: it is no regular file" in capsys.readouterr().out
    status = main(["store", str(tmp_path), "gc"])
    told = capsys.readouterr().err
    assert status == (2 if make is os.mkdir else 0), told
    assert make is os.mkfifo or "strange.safetensors is a folder, not a shard; move it away" in told


@pytest.mark.parametrize(
    "text",
    [b"{}", b"[]", b"null", b'{"format": 1}', b'{"format": 1, "dtype": ["float16"]}', DEEP],
)
def test_damaged_settings_are_one_sentence(tmp_path, capsys, text):
    filled(tmp_path, "a")
    (tmp_path / "store.json").write_bytes(text)
    for action in ("stat", "verify", "gc"):
        assert main(["store", str(tmp_path), action]) == 2
        assert "store.json is not readable as the settings of a tensor store" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not readable as the settings"):
        TensorStore(tmp_path)


def test_settings_and_shards_that_are_something_else(tmp_path, capsys):
    (tmp_path / "a" / "store.json").mkdir(parents=True)
    assert main(["store", str(tmp_path / "a"), "stat"]) == 2
    assert "store.json is not readable as the settings of a tensor store" in capsys.readouterr().err
    filled(tmp_path / "b", "a")
    (tmp_path / "b" / "shards").rename(tmp_path / "b" / "away")
    (tmp_path / "b" / "shards").write_text("a file")
    with pytest.raises(UserError, match="shards is no folder; move it away"):
        TensorStore(tmp_path / "b").get("a")


def test_entries_that_do_not_fit_together_are_one_sentence(tmp_path):
    filled(tmp_path, "a")
    with TensorStore(tmp_path) as store:
        store.put("b", {"y": torch.zeros(2)})
        with pytest.raises(UserError, match="Entries of the store differ in the names, shapes or types"):
            StoredRows(store).lookup(["a", "b"])


def test_a_key_on_disk_is_not_written_again(tmp_path):
    filled(tmp_path, "a", "b", value=1)
    before = {path: path.read_bytes() for path in shards(tmp_path)}
    filled(tmp_path, "a", value=2)  # another process, which has not looked at the store
    with TensorStore(tmp_path) as store:
        assert store.get("a")["x"].tolist() == [1, 1]
        store.put("a", {"x": torch.full((2,), 3.0)})  # which has
        store.flush()
        store.put("b", {"x": torch.full((2,), 4.0)})
    assert {path: path.read_bytes() for path in shards(tmp_path)} == before


def test_shards_that_were_closed_to_open_others_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("perception.data.store.store._OPEN_SHARDS", 2)
    for key in "abcd":
        filled(tmp_path, key, value=ord(key))
    store = TensorStore(tmp_path)
    for key in "abacadbcd":
        assert store.get(key)["x"][0] == ord(key)
    assert len(store._readers) <= 2
