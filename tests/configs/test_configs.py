"""Every shipped config: a docstring with its command, no mistakes, and listed in the README."""

from pathlib import Path

import pytest
from mmengine.config import Config

from perception.training.config.load import load_config

CONFIGS = sorted(path for path in Path("configs").rglob("*.py") if "_base_" not in path.parts)


def _name(path):
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_config_has_no_mistakes(path):
    config = load_config(path)
    assert config.work_dir == f"runs/{path.stem}"
    assert config.train_dataloader.dataset.type
    assert "in_channels" not in config.model.get("decode_head", {})  # read from the backbone


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_config_says_what_it_is_and_how_to_run_it(path):
    source = path.read_text()
    docstring = source.split('"""')[1]
    assert f"python tools/train.py {path.as_posix()}" in docstring
    assert path.name in Path("configs/README.md").read_text()
    assert "1280" not in source


def test_camvid_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("PERCEPTION_CAMVID", "/data/camvid")
    config = Config.fromfile("configs/fpn/fpn_mini_camvid.py")
    assert config.test_dataloader.dataset.data_root == "/data/camvid"
