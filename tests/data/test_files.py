"""Atomic files: whole or absent, whatever happens."""

import errno
import os
import subprocess
import sys

import pytest

from perception.data.files import (
    NameTooLongError,
    NoSpaceError,
    file_hash,
    fitting,
    orphaned_temps,
    replacing,
    replacing_folder,
    write_atomic,
)
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


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".bin", "ü" * 127, "日" * 85, os.fsdecode(b"\xff" * 255)])
def test_names_of_255_bytes_are_written_and_their_temporaries_found(tmp_path, name):
    write_atomic(tmp_path / name, b"1")
    with pytest.raises(KeyError), replacing(tmp_path / name) as beside:
        beside.write_bytes(b"half")
        raise KeyError
    with replacing(tmp_path / name) as beside:
        beside.write_bytes(b"2")
        dead = beside.with_name(beside.name.replace(f"-{os.getpid()}-", "-4194304-"))  # above the largest process id
        dead.write_bytes(b"")
        assert orphaned_temps(tmp_path) == [dead]
    with replacing_folder(tmp_path / name[:-1]) as fresh:
        (fresh / "a").write_bytes(b"3")
    assert (tmp_path / name).read_bytes() == b"2" and (tmp_path / name[:-1] / "a").read_bytes() == b"3"


def test_a_name_that_is_too_long_is_cut_and_stays_different():
    short, first, second = "a/b.png", "x/" + "n" * 300 + ".jpg.png", "x/" + "n" * 299 + "m.jpg.png"
    cut = fitting(first)
    assert fitting(short) == short and fitting(cut) == cut and cut != fitting(second)
    assert len(cut) == 2 + 255 and cut.startswith("x/nnn") and cut.endswith(".png")
    assert len(os.fsencode(fitting("日" * 100, 30))) in range(222, 226)


def test_a_path_that_is_too_long_is_one_sentence(tmp_path):
    with pytest.raises(NameTooLongError, match="is too long a name for the file system; choose a shorter one"):
        write_atomic(tmp_path / "/".join(["n" * 200] * 30), b"1")


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a device or a pipe, which a file would replace"):
        write_atomic(tmp_path / "pipe", b"1")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_file_above_the_limit_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail_with(errno.EFBIG))
    with pytest.raises(NoSpaceError, match=r"x\.bin would be larger than files may be here; raise the limit"):
        write_atomic(tmp_path / "x.bin", b"1")
    assert not list(tmp_path.iterdir())
