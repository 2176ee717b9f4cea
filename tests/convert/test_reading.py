"""Reading pickled checkpoints: what is accepted, and every way in which a file can be wrong."""

from __future__ import annotations

import argparse
import os
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from damage import damaged

from perception.convert.reading import read_checkpoint
from perception.errors import UserError

WEIGHTS = {"a.weight": torch.arange(4.0), "b": torch.zeros(2, 2)}


class Code:
    """An object whose unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def file(tmp_path):
    """Function content -> path of the file that holds it."""

    def write(content, **options):
        torch.save(content, tmp_path / "file.pth", **options)
        return tmp_path / "file.pth"

    return write


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "meta": {"CLASSES": ("x", "y")}, "optimizer": {"state": {}}},
        {"model": WEIGHTS, "epoch": 3, "args": argparse.Namespace(lr=1e-3), "lr_scheduler": {"lr_lambdas": [None]}},
        {"model": {f"module.{name}": value for name, value in WEIGHTS.items()}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_containers(file, content, zipped):
    found = read_checkpoint(file(content, _use_new_zipfile_serialization=zipped))
    assert found.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert found.meta.get("CLASSES", ("x", "y")) == ("x", "y")


def test_code_is_named_and_not_run(file, tmp_path):
    with pytest.raises(UserError, match=r"holds pickled code \((posix|nt)\.mkdir\), which is never run here; save the"):
        read_checkpoint(file({"model": WEIGHTS, "extra": Code(tmp_path / "made")}))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_torn_files(file, zipped, share):
    path = file(WEIGHTS, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"is truncated or no PyTorch checkpoint \(\d+ bytes\); download it again"):
        read_checkpoint(path)


def test_other_content(file, tmp_path):
    with pytest.raises(UserError, match="does not exist; name the checkpoint file"):
        read_checkpoint(Path("missing.pth"))
    with pytest.raises(UserError, match="holds a list; expected a dictionary of weights"):
        read_checkpoint(file([torch.zeros(1)]))
    with pytest.raises(
        UserError, match=r"no weights under state_dict or model, .*: epoch, note; expected a state dict"
    ):
        read_checkpoint(file({"epoch": 3, "note": "x", "a": torch.zeros(1)}))
    with pytest.raises(UserError, match="it is empty"):
        read_checkpoint(file({"model": {}}))
    (tmp_path / "other.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(UserError, match=r"other\.pth"):
        read_checkpoint(tmp_path / "other.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_checkpoint_is_one_sentence(file):
    draw = random.Random(0)
    path = file({"state_dict": WEIGHTS, "meta": {"CLASSES": ["a"]}}, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for _ in range(150):
        path.write_bytes(damaged(whole, draw, 500))
        with suppress(UserError):
            read_checkpoint(path)


def test_names_that_are_no_texts_are_one_sentence(file):
    with pytest.raises(UserError, match="what is no tensor among its own entries"):
        read_checkpoint(file({("a", 1): torch.zeros(1)}))


def test_tensors_that_repeat_one_number(file):
    with pytest.raises(UserError, match="holds fewer numbers than the shapes of w say"):
        read_checkpoint(file({"w": torch.zeros(1).expand(10**12)}))
