"""Trained heads as folders: save, load, and every way in which a folder can be wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from perception.engine.training.artifact import SegmentationModel, export_model, read_artifact, read_weights
from perception.engine.training.channels import with_channels
from perception.engine.training.registry import MODELS
from perception.errors import UserError


@pytest.fixture
def folder(tiny_sd, tmp_path):
    config = with_channels(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "perception.engine.training.backbones.DiffusionFeatures",
                "name": str(tiny_sd),
                "taps": ["up_blocks.1"],
                "store": str(tmp_path / "store"),
            },
            "decode_head": {"type": "FCNHead", "channels": 8, "num_classes": 3, "num_convs": 1},
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )
    model = MODELS.build(config)
    meta = {"classes": ("a", "b", "c"), "palette": [[0, 0, 0], [9, 9, 9], [200, 0, 0]]}
    export_model(model, config, meta, tmp_path / "model", (64, 64), {"mIoU": 41.5})
    return tmp_path / "model", model


def test_round_trip(folder):
    path, model = folder
    loaded = SegmentationModel.from_pretrained(path)
    assert loaded.classes == ["a", "b", "c"]
    assert loaded.metrics == {"mIoU": 41.5}
    assert not loaded.training
    images = torch.rand(2, 3, 64, 64)
    wanted = model.eval().encode_decode(images, [{"img_shape": (64, 64), "pad_shape": (64, 64)}] * 2)
    assert torch.allclose(loaded(images), wanted, atol=1e-2)  # the model's backbone reads half precision from its store
    labels = loaded.predict(Image.fromarray(np.zeros((50, 90, 3), np.uint8)))
    assert labels.shape == (50, 90)
    assert labels.dtype == np.uint8
    assert labels.max() < 3


def test_folder_is_small_and_portable(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    assert config["model"]["backbone"]["type"] == "perception.DiffusionFeatures"
    assert "store" not in config["model"]["backbone"]
    assert all(key.startswith("segmentor.decode_head.") for key in load_file(path / "model.safetensors"))
    card = (path / "README.md").read_text()
    assert "mIoU: 41.5" in card
    assert "3 classes" in card


def test_export_replaces_an_older_folder(folder):
    path, model = folder
    config = read_artifact(path)["model"]
    export_model(model, config, {"classes": "abc", "palette": [[0, 0, 0]] * 3}, path, None, {"mIoU": 50.0})
    assert read_artifact(path)["metrics"] == {"mIoU": 50.0}
    assert "50.0" in (path / "README.md").read_text()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_another_backbone_is_refused(folder):
    path, _ = folder
    config = read_artifact(path)
    config["backbone_fingerprint"] = "0" * 16
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"trained on backbone weights 0000000000000000, but .* is .* here; use the same"
    ):
        SegmentationModel.from_pretrained(path)


def test_weights_that_do_not_fit(folder):
    path, _ = folder
    weights = load_file(path / "model.safetensors")
    weights["segmentor.decode_head.extra"] = weights.pop("segmentor.decode_head.conv_seg.bias")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(UserError, match=r"do not fit its config.json: .*conv_seg.bias"):
        SegmentationModel.from_pretrained(path)


def test_incomplete_folders(folder):
    path, _ = folder
    (path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model.safetensors is torn .*; copy the folder again"):
        read_weights(path)
    with pytest.raises(UserError, match="the weights in"):
        SegmentationModel.from_pretrained(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is no folder of a trained head: model.safetensors is missing"):
        read_artifact(path)
    (path / "config.json").write_text("{")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"config.json is broken"):
        read_artifact(path)


@pytest.mark.parametrize("config", [{"_class_name": "UNet2DConditionModel"}, {"task": "swimming"}, ["task"]])
def test_folders_of_something_else(folder, config):
    path, _ = folder
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json describes no trained head; name WORK_DIR/model or a .pth file"):
        read_artifact(path)
