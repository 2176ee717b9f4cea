"""Checkpoints of training on a disk that fills up."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend

from perception.errors import UserError
from perception.training.app import train
from perception.training.config.load import Overrides
from perception.training.hooks import _PutOff

CONFIG = Path("configs/fpn/fpn_mini_camvid.py")


def test_a_full_disk_costs_one_epoch(camvid_folder, small, tmp_path, monkeypatch, unformatted_configs):
    """mmengine deletes the only checkpoint first: then there would be nothing to resume from."""
    put = LocalBackend.put

    def half(self, content, path):
        if "epoch_2" not in Path(path).name:
            return put(self, content, path)
        Path(path).write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    overrides = Overrides(small, str(camvid_folder), str(tmp_path / "run"))
    with monkeypatch.context() as full, pytest.raises(UserError, match=r"No space left in .*: free space and run the"):
        full.setattr(LocalBackend, "put", half)
        train(CONFIG, overrides)
    assert {path.name for path in (tmp_path / "run").glob("*.pth*")} == {"epoch_1.pth", "best_mIoU_epoch_1.pth"}
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=False)["meta"]["epoch"] == 1

    train(CONFIG, overrides, resume=True)
    assert [path.name for path in (tmp_path / "run").glob("epoch_*.pth")] == ["epoch_2.pth"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["epoch"] for entry in metrics["validation"]] == [1, 2]


def test_files_are_deleted_later_unless_written_again(tmp_path):
    paths = [str(tmp_path / name) for name in ("old", "again")]
    backend = _PutOff(LocalBackend())
    for path in paths:
        Path(path).write_bytes(b"1")
        backend.remove(path)
    assert backend.isfile(paths[0])
    backend.delete(spared=[None, paths[1]])
    assert [backend.isfile(path) for path in paths] == [False, True]


def test_resuming_prefers_the_newest_checkpoint_to_load_from(camvid_folder, small, tmp_path, unformatted_configs):
    """Epoch 1 of a run that began from other weights; mmengine would begin again from those."""
    options = [*small, "train_cfg.max_epochs=1"]
    train(CONFIG, Overrides(options, str(camvid_folder), str(tmp_path / "first")))
    options.append(f"load_from={tmp_path / 'first' / 'best_mIoU_epoch_1.pth'}")
    train(CONFIG, Overrides(options, str(camvid_folder), str(tmp_path / "second")))
    options.append("train_cfg.max_epochs=2")
    train(CONFIG, Overrides(options, str(camvid_folder), str(tmp_path / "second")), resume=True)
    log = next(iter(sorted((tmp_path / "second").glob("*/*.log"))[1:])).read_text()
    assert f"Load checkpoint from {tmp_path / 'second' / 'epoch_1.pth'}" in log
    assert "Epoch(train) [1]" not in log


def test_a_work_dir_that_cannot_be_used(camvid_folder, small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written .*; choose another output folder"):
        train(CONFIG, Overrides(small, str(camvid_folder), str(tmp_path / "file")))
    (tmp_path / "last_checkpoint").write_text("/moved/epoch_3.pth")
    with pytest.raises(
        UserError, match=r"names the checkpoint '/moved/epoch_3.pth', which is not there; write the path"
    ):
        train(CONFIG, Overrides(small, str(camvid_folder), str(tmp_path)), resume=True)
