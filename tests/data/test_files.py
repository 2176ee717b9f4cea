"""Atomic files: whole or absent, whatever happens."""

import errno
import os
import subprocess
import sys

import pytest

from perception.data.files import NoSpaceError, file_hash, orphaned_temps, replacing_folder, write_atomic
from perception.errors import UserError


def fail_with(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_writes_bytes_and_pieces_below_new_folders(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "x.bin", b"123")
    write_atomic(tmp_path / "y.bin", (piece for piece in (b"1", b"23")))
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == (tmp_path / "y.bin").read_bytes() == b"123"
    assert file_hash(tmp_path / "y.bin") == "a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary(tmp_path, monkeypatch, call, code):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, fail_with(code))
    with pytest.raises(NoSpaceError, match=r"^No space left in .*: free space and run the same command again\.$"):
        write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_a_path_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written .*choose another output folder"):
        write_atomic(tmp_path / "file" / "x.bin", b"1")


def test_a_folder_is_replaced_when_all_is_written_or_stays(tmp_path):
    with replacing_folder(tmp_path / "new" / "x") as fresh:
        (fresh / "a").write_bytes(b"1")
    with pytest.raises(OSError, match="of the writer"), replacing_folder(tmp_path / "new" / "x") as fresh:
        (fresh / "b").write_bytes(b"2")
        raise OSError("of the writer")
    assert [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "new").rglob("*")] == ["new/x", "new/x/a"]
    with replacing_folder(tmp_path / "new" / "x") as fresh:
        (fresh / "c").write_bytes(b"3")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["x", "c"]


def test_temporaries_of_dead_writers_are_orphans_and_those_of_living_ones_are_not(tmp_path):
    script = """
import os, sys
from pathlib import Path
from perception.data.files import write_atomic
os.replace = lambda *names: os._exit(9)
write_atomic(Path(sys.argv[1]) / "x.bin", b"half")
"""
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    (orphan,) = tmp_path.iterdir()
    living = orphan.with_name(f".y.bin.{orphan.name.split('.')[3].rsplit('-', 2)[0]}-{os.getpid()}-0.tmp")
    living.write_bytes(b"")
    (tmp_path / ".foreign.tmp").write_bytes(b"")
    assert orphaned_temps(tmp_path) == [orphan]
