"""Trained heads as folders: save, load, and every way in which a folder can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from PIL import Image
from safetensors.torch import load_file, save_file

from perception.encoders.artifact import read_artifact
from perception.encoders.head_rules import BUILDABLE, check_model, registered_name
from perception.errors import UserError
from perception.training.config.channels import with_channels
from perception.training.config.check import find_type
from perception.training.config.load import load_config
from perception.training.data.records import CamVid
from perception.training.export.best import not_exported
from perception.training.export.mmseg_model import (
    SegmentationModel,
    export_model,
    portable,
    read_weights,
)
from perception.training.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def folder(tiny_sd, tmp_path):
    config = with_channels(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "perception.training.models.backbones.DiffusionFeatures",
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
    config = read_artifact(path).config["model"]
    export_model(model, config, {"classes": "abc", "palette": [[0, 0, 0]] * 3}, path, None, {"mIoU": 50.0})
    assert read_artifact(path).config["metrics"] == {"mIoU": 50.0}
    assert "50.0" in (path / "README.md").read_text()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_another_backbone_is_refused(folder):
    path, _ = folder
    config = read_artifact(path).config
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
    with pytest.raises(UserError, match=r"is no folder of a trained model: model.safetensors is missing"):
        read_artifact(path)
    (path / "config.json").write_text("{")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"config.json is broken"):
        read_artifact(path)


@pytest.mark.parametrize("config", [{"_class_name": "UNet2DConditionModel"}, {"task": "swimming"}, ["task"]])
def test_folders_of_something_else(folder, config):
    path, _ = folder
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json describes no (model of perception|trained head)"):
        read_artifact(path)


def test_what_a_head_may_name_is_known_to_the_registries():
    for name in BUILDABLE:
        assert find_type(registered_name(name)) is not None, name
    assert registered_name("mmseg.models.FPN") == registered_name("FPN") == "mmseg.FPN"
    assert not any(map(registered_name, ("mmseg.datasets.FPN", "os.FPN", "FPN.x", "VPD", "mmseg.VPD", "")))


def test_an_exported_config_names_no_files_and_registered_classes_alone():
    config = portable(
        {
            "type": "mmseg.models.segmentors.EncoderDecoder",
            "pretrained": "https://a.b/c.pth",
            "backbone": {
                "type": "mmseg.models.backbones.timm_backbone.TIMMBackbone",
                "pretrained": True,
                "names": "perception.CamVid",
            },
            "decode_head": {
                "type": "FCNHead",
                "norm_cfg": {"type": "torch.nn.BatchNorm2d"},
                "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"},
                "loss_decode": [{"type": "mmseg.models.losses.CrossEntropyLoss"}],
            },
        }
    )
    assert config == {
        "type": "mmseg.EncoderDecoder",
        "backbone": {"type": "mmseg.TIMMBackbone", "names": list(CamVid.METAINFO["classes"])},
        "decode_head": {
            "type": "mmseg.FCNHead",
            "norm_cfg": {"type": "BN"},
            "loss_decode": [{"type": "mmseg.CrossEntropyLoss"}],
        },
    }
    check_model(config, "it")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_semantic_config_makes_a_folder_that_may_be_built(path):
    if path.parent.name == "_base_":
        return
    model = load_config(path).model.to_dict()
    if "decode_head" in model:
        check_model(portable(model), path.name)


class AnyModel(BaseModel):
    """Neither a task's nor a generator's."""

    def forward(self, *inputs):
        """Nothing."""


def test_a_class_of_the_users_own_is_trained_and_makes_no_folder():
    model = {"type": "EncoderDecoder", "backbone": {"type": "ResNet"}, "decode_head": {"type": "mymodule.MyHead"}}
    reason = not_exported(AnyModel(), Config({"model": model}))
    assert (
        "no folder is made of this model" in reason and "the type 'mymodule.MyHead' at model.decode_head.type" in reason
    )
