"""The manifest: lines are whole, the newest counts, and merging may be repeated."""

import errno
import json
import os

import pytest

from perception.data.files import NoSpaceError
from perception.errors import UserError
from perception.jobs import Item
from perception.jobs.manifest import (
    ManifestReader,
    ManifestWriter,
    encode_line,
    manifest_path,
    merge_parts,
    part_path,
    part_paths,
    read_manifest,
)


def line(key: str, value: int = 0) -> bytes:
    return encode_line({"id": key, "status": "failed", "value": value})


def merged(out, *keys: str) -> list[tuple[str, int]]:
    merge_parts(out, [Item(id=key) for key in keys])
    return [(record["id"], record["value"]) for record in read_manifest(out)]


def test_lines_are_ascii_and_finite():
    assert encode_line({"id": "stra\u00dfe/\udcff.png", "n": 1}) == b'{"id": "stra\\u00dfe/\\udcff.png", "n": 1}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        encode_line({"id": "a", "n": float("nan")})


def test_the_last_line_of_an_id_counts_and_a_torn_one_does_not(tmp_path):
    path = part_path(tmp_path, 0)
    path.write_bytes(line("a", 1) + line("b", 1) + line("a", 2) + line("b", 2)[:-5])
    reader = ManifestReader(path)
    assert [reader.get(key) and reader.get(key)["value"] for key in "abc"] == [2, 1, None]
    assert merged(tmp_path, "a", "b") == [("a", 2), ("b", 1)]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    manifest_path(tmp_path).write_bytes(line("a") + b"{broken\n" + line("b"))
    with pytest.raises(UserError, match=r"manifest\.jsonl has a broken line at byte \d+; delete that line"):
        ManifestReader(manifest_path(tmp_path))


def test_parts_are_merged_in_item_order_over_older_lines(tmp_path):
    manifest_path(tmp_path).write_bytes(line("old", 1) + line("b", 1))
    part_path(tmp_path, 1).write_bytes(line("b", 2))
    part_path(tmp_path, 0).write_bytes(line("c", 2) + line("a", 2))
    expected = [("a", 2), ("b", 2), ("c", 2), ("old", 1)]
    assert merged(tmp_path, "a", "b", "c", "later") == expected
    assert part_paths(tmp_path) == [] and merged(tmp_path, "a") == expected


def test_merging_again_after_a_kill_before_the_parts_were_deleted_changes_nothing(tmp_path):
    part_path(tmp_path, 0).write_bytes(line("a", 1))
    part = part_path(tmp_path, 0).read_bytes()
    first = merged(tmp_path, "a")
    part_path(tmp_path, 0).write_bytes(part)
    assert merged(tmp_path, "a") == first == [("a", 1)]


def test_a_full_disk_cuts_the_part_back_to_whole_lines(tmp_path, monkeypatch):
    path = part_path(tmp_path, 0)
    writer = ManifestWriter(path)
    writer.append([line("a")])
    with monkeypatch.context() as patch:

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match="free space and run the same command again"):
            writer.append([line("b")])
    assert path.read_bytes() == line("a")
    writer.append([line("c"), line("d")])
    writer.close()
    assert [json.loads(text)["id"] for text in path.read_text().splitlines()] == ["a", "c", "d"]


def test_a_write_that_stops_short_is_completed(tmp_path):
    writer = ManifestWriter(part_path(tmp_path, 0))

    class Short:
        def __init__(self, file):
            self.file, self.first = file, True

        def write(self, content):
            count = 3 if self.first else len(content)  # as a raw file does where the disk fills up
            self.first = False
            return self.file.write(content[:count])

        def __getattr__(self, name):
            return getattr(self.file, name)

    writer._file = Short(writer._file)
    writer.append([line("a"), line("b")])
    assert part_path(tmp_path, 0).read_bytes() == line("a") + line("b")


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a"},
        {"id": "a", "status": "finished"},
        {"id": "a", "status": ["done"]},
        {"id": "a", "status": "done"},
        {"id": "a", "status": "done", "output": "x"},
        {"id": "a", "status": "done", "output": [1]},
        {"id": "a", "status": "done", "output": ["../x"]},
        {"id": "a", "status": "done", "output": ["/x"]},
        {"id": "a", "status": "done", "output": ["a\0b"]},
        {"id": "a", "status": "done", "output": [], "hash": 3},
    ],
)
def test_a_line_that_no_job_writes_is_no_result(tmp_path, record):
    manifest_path(tmp_path).write_bytes(encode_line(record))
    assert ManifestReader(manifest_path(tmp_path)).get("a") is None
    with pytest.raises(UserError, match=r"The line of 'a' in .* has other fields than were written; delete that line"):
        list(read_manifest(tmp_path))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"id": 3}', b'["id"]', b'{"id": "a", "x": NaN}', b"\xff\xfe"])
def test_lines_that_are_no_record_are_named(tmp_path, text):
    manifest_path(tmp_path).write_bytes(line("b") + text + b"\n")
    with pytest.raises(UserError, match=rf"broken line at byte {len(line('b'))}; delete that line"):
        ManifestReader(manifest_path(tmp_path))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_manifest_is_a_file(tmp_path, make):
    make(manifest_path(tmp_path))
    with pytest.raises(UserError, match="is no file, but the name of a manifest; move it away"):
        ManifestReader(manifest_path(tmp_path))
