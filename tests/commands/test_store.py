"""`perception store STORE stat|verify|gc`."""

import argparse

import pytest
import torch

from perception.commands.main import main
from perception.commands.store import byte_count
from perception.data.store import TensorStore


@pytest.fixture
def root(tmp_path):
    with TensorStore(tmp_path / "store") as store:
        store.put("a", {"x": torch.ones(4)})
    return tmp_path / "store"


def test_stat_and_verify_of_a_good_store(root, capsys):
    assert main(["store", str(root), "stat"]) == 0
    assert "entries  1" in capsys.readouterr().out
    assert main(["store", str(root), "verify"]) == 0
    assert capsys.readouterr().out.startswith("1 shards, 1 entries, ")


def test_verify_names_damage_and_gc_deletes_it(root, capsys):
    (shard,) = (root / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert main(["store", str(root), "verify"]) == 1
    assert f"damaged: {shard.name}: its content does not match its name" in capsys.readouterr().out
    assert main(["store", str(root), "gc", "--check", "--dry-run"]) == 0
    assert "would delete 1 damaged shards" in capsys.readouterr().out and shard.exists()
    assert main(["store", str(root), "gc", "--check"]) == 0
    assert "deleted 1 damaged shards" in capsys.readouterr().out and not shard.exists()


def test_gc_to_a_size(root, capsys):
    assert main(["store", str(root), "gc", "--max-bytes", "0.1K"]) == 0
    assert "1 old shards" in capsys.readouterr().out and not list((root / "shards").iterdir())


@pytest.mark.parametrize("options", [["--max-bytes", "0"], ["--check"], ["--dry-run"]])
@pytest.mark.parametrize("action", ["stat", "verify"])
def test_options_of_gc_alone(root, capsys, action, options):
    assert main(["store", str(root), action, *options]) == 2
    assert f"{options[0]} has no meaning for {action}; leave it out, or use gc." in capsys.readouterr().err


def test_a_folder_that_is_no_store(tmp_path, capsys):
    assert main(["store", str(tmp_path), "stat"]) == 2
    assert "is not a tensor store (it has no store.json); check the path." in capsys.readouterr().err


@pytest.mark.parametrize(("text", "count"), [("12", 12), ("1.5k", 1500), ("20G", 20 * 10**9), ("3T", 3 * 10**12)])
def test_sizes(text, count):
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "x", "12Q", "-1G", "infG", "nan"])
def test_no_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of bytes such as 500M or 20G"):
        byte_count(text)
