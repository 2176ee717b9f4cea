"""Folders of trained heads that were made to run code, to read or write files, or to fill the memory."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception.commands.main import main
from perception.encoders.artifact import SHIPPED
from perception.errors import UserError

Change = Callable[[dict[str, Any], Path], object]


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def run_code(mark: Path) -> dict[str, str]:
    """A part of a config that would make the file `mark`, in mmengine's eyes."""
    return {"type": "subprocess.getoutput", "cmd": f"touch {mark}"}


def pickled(mark: Path) -> str:
    """A file that does so when it is unpickled."""
    file = mark.with_name("weights.pkl")
    file.write_bytes(pickle.dumps(Payload(mark)))
    return str(file)


SEMANTIC: dict[str, tuple[Change, str]] = {
    "backbone": (
        lambda m, mark: m.update(backbone=run_code(mark)),
        "the type 'subprocess.getoutput' at model.backbone",
    ),
    "neck": (lambda m, mark: m.update(neck=run_code(mark)), "at model.neck.type"),
    "loss": (
        lambda m, mark: m["decode_head"].update(loss_decode=[run_code(mark)]),
        "at model.decode_head.loss_decode.0",
    ),
    "layer": (lambda m, mark: m["decode_head"].update(norm_cfg=run_code(mark)), "at model.decode_head.norm_cfg.type"),
    "unused": (lambda m, mark: m.update(train_cfg={"a": [[run_code(mark)]]}), "at model.train_cfg.a.0.0.type"),
    "a class of mmseg": (lambda m, mark: m["backbone"].update(type="mmseg.VPD"), "the type 'mmseg.VPD'"),
    "a list": (lambda m, mark: m["neck"].update(type=["FPN"]), "the type \"['FPN']\""),
    "a scope": (lambda m, mark: m["neck"].update(_scope_="os"), "a key of mmengine's own at model.neck._scope_"),
    "a file of weights": (
        lambda m, mark: m["decode_head"].update(init_cfg={"type": "Pretrained", "checkpoint": pickled(mark)}),
        "an argument that names a file at model.decode_head.init_cfg",
    ),
    "a pickle": (
        lambda m, mark: m["decode_head"]["loss_decode"].update(class_weight=pickled(mark)),
        "a class_weight that names a file at model.decode_head.loss_decode",
    ),
    "pretrained": (
        lambda m, mark: m.update(pretrained="https://a.b/c.pth"),
        "an argument that names a file at model.pretrained",
    ),
    "a path": (
        lambda m, mark: m["backbone"].update(checkpoint_path="a.pth"),
        "an argument that names a file at model.backbone.checkpoint_path",
    ),
    "a store": (
        lambda m, mark: m["backbone"].update(store=str(mark)),
        "an argument that names a file at model.backbone.store",
    ),
    "names": (lambda m, mark: m["backbone"].update(names="antigravity.Dataset"), "the text 'antigravity.Dataset'"),
    "timm": (lambda m, mark: m["backbone"].update(side="hf-hub:a/b"), "the text 'hf-hub:a/b' at model.backbone.side"),
    "infinite": (lambda m, mark: m["decode_head"].update(channels=float("inf")), "a number without bounds"),
    "huge": (lambda m, mark: m["decode_head"].update(channels=10**12), "a number without bounds"),
    "large": (lambda m, mark: m["decode_head"].update(channels=2**20), "it asks for far more weights than the"),
    "kind": (lambda m, mark: m["decode_head"].update(in_index="x"), "do not fit its config.json"),
    "no backbone": (lambda m, mark: m.pop("backbone"), "describes no segmentor with a backbone"),
}
ARGUMENTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "referring type": ("referring", {"type": "subprocess.getoutput"}, "the type 'subprocess.getoutput' at type"),
    "depth type": ("depth", {"type": "subprocess.getoutput"}, "the type 'subprocess.getoutput' at type"),
    "timm": ("depth", {"encoder": "local-dir:/x"}, "the text 'local-dir:/x' at encoder"),
    "an object": ("depth", {"backbone": {"type": "a"}}, "an object at backbone"),
    "a number": ("referring", {"hidden": 10**9}, "a number without bounds at hidden"),
    "a large one": ("referring", {"hidden": 2**20}, "it asks for far more weights than the"),
    "kind": ("depth", {"num_filters": 5}, "do not fit its config.json"),
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small image."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    return path


def copied(task: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a shipped head, and its config."""
    shutil.copytree(SHIPPED / f"mini-{task}", folder)
    return folder, json.loads((folder / "config.json").read_text())


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a command ends with."""
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.mark.parametrize("case", SEMANTIC)
def test_a_semantic_head_is_data(case: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = SEMANTIC[case]
    mark = tmp_path / "mark"
    folder, config = copied("semantic", tmp_path / "head")
    change(config["model"], mark)
    (folder / "config.json").write_text(json.dumps(config))
    words = ["segment", str(picture), "--model", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert message in refused([*words, "--dry-run"], capsys)
    assert message in refused(words, capsys)
    assert not mark.exists() and not any((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("case", ARGUMENTS)
def test_other_heads_are_data(case: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, change, message = ARGUMENTS[case]
    folder, config = copied(task, tmp_path / "head")
    (folder / "config.json").write_text(json.dumps(config | change))
    words = ["depth", str(picture)] if task == "depth" else ["segment", str(picture), "--text", "a car"]
    assert message in refused([*words, "--model", str(folder), "--out", str(tmp_path / "out")], capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "is nested more than 32 levels deep"),
        ('{"a":' * 200_000, "is nested more than 32 levels deep"),
        ("\udcff", "is not valid JSON"),
        ('{"model": 5, "classes": 5, "palette": 5}', "has an entry 'model'"),
        ('{"model": {}, "classes": ["a"], "palette": []}', "names 1 classes and 0 colours"),
        ('{"task": ["depth"]}', "describes no model of perception"),
    ],
)
def test_configs_that_are_none(
    text: str, message: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = copied("semantic", tmp_path / "head")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused(["segment", str(picture), "--model", str(folder), "--out", str(tmp_path / "o")], capsys)


def test_score_and_tools_ask_the_same(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from perception.encoders.artifact import read_artifact
    from perception.training.export.mmseg_model import SegmentationModel
    from perception.training.export.weights import trained_config

    folder, config = copied("semantic", tmp_path / "head")
    config["model"]["backbone"] = run_code(tmp_path / "mark")
    (folder / "config.json").write_text(json.dumps(config))
    assert "the type 'subprocess.getoutput'" in refused(
        ["score", str(picture.parent), "--model", str(folder), "--out", str(tmp_path / "o"), "--no-filter"], capsys
    )
    for reader in (read_artifact, SegmentationModel.from_pretrained):
        with pytest.raises(UserError, match=r"the type 'subprocess.getoutput' at model.backbone.type"):
            reader(folder)
    for task in ("referring", "depth"):  # tools/test.py makes a config of the arguments
        other, arguments = copied(task, tmp_path / task)
        (other / "config.json").write_text(json.dumps(arguments | run_code(tmp_path / "mark")))
        with pytest.raises(UserError, match=r"does not take|which no trained head of this toolkit has"):
            trained_config(other)
    assert not (tmp_path / "mark").exists()


def test_nothing_of_mmengine_is_imported_before(picture: Path, tmp_path: Path) -> None:
    folder, config = copied("semantic", tmp_path / "head")
    config["model"]["neck"]["type"] = "builtins.eval"
    (folder / "config.json").write_text(json.dumps(config))
    words = ["segment", str(picture), "--model", str(folder), "--out", str(tmp_path / "o")]
    program = (
        f"import sys; from perception.commands.main import main; status = main({words!r}); "
        "sys.exit(status if not {'mmengine', 'mmseg', 'mmcv'} & sys.modules.keys() else 1)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert "the type 'builtins.eval' at model.neck.type" in ended.stderr
