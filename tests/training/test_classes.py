"""Wrong numbers of classes, and weights of something else: one sentence each, before anything heavy loads."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict

from perception.errors import UserError
from perception.training.config.classes import check_classes, class_names
from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.export.mmseg_model import export_model
from perception.training.registry import MODELS

CONFIG = "configs/vpd/vpd_mini_camvid.py"
NAMES = tuple("abcdefghijk")


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train, evaluate = _tool("train"), _tool("test")


def test_names_of_data_sets():
    assert class_names("perception.WorldScenes")[0] == "road"
    assert len(class_names("ADE20KDataset")) == 150
    assert class_names(NAMES) is NAMES


def _model(count, names=None, **backbone):
    told = {"type": "perception.VPDFeatures", "names": names or NAMES[:count], **backbone}
    return {"backbone": told, "decode_head": {"type": "FPNHead", "num_classes": count}}


def test_numbers_that_agree():
    check_classes(_model(3), NAMES[:3], "train_dataloader")
    check_classes(_model(3), None, "train_dataloader")
    check_classes(_model(3, NAMES[:2], conditioning="learned"), NAMES[:3], "train_dataloader")  # tokens, no names
    check_classes(_model(11, "perception.CamVid"), NAMES, "train_dataloader")
    check_classes({"network": {"type": "DepthNet"}}, None, "train_dataloader")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            _model(2),
            r"the head of the model has 2 classes \(num_classes\), but the data of train_dataloader have 3; use",
        ),
        (_model(3, NAMES[:2]), r"model.backbone.names holds 2 class names, but the head has 3 classes \(num_classes\)"),
        (_model(3, "perception.CamVid"), "model.backbone.names holds 11 class names, but the head has 3 classes"),
        (
            {**_model(3), "auxiliary_head": [{"type": "FCNHead", "num_classes": 4}]},
            "the head of the model has 4 classes",
        ),
    ],
)
def test_numbers_that_differ(model, sentence):
    with pytest.raises(UserError, match=sentence):
        check_classes(model, NAMES[:3], "train_dataloader")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["model.decode_head.num_classes=9"],
            "the head of the model has 9 classes (num_classes), but the data of train",
        ),
        (
            ["model.backbone.names=perception.WorldScenes"],
            "model.backbone.names holds 19 class names, but the head has 11",
        ),
    ],
)
def test_training_with_a_wrong_number(camvid_folder, small, tmp_path, capfd, options, sentence):
    arguments = [CONFIG, "--data-root", str(camvid_folder), "--work-dir", str(tmp_path / "run")]
    assert train([*arguments, "--cfg-options", *small, *options]) == 2
    error = capfd.readouterr().err
    assert error.startswith("train: ") and sentence in error


@pytest.fixture
def failing_test(camvid_folder, small, tmp_path, capfd):
    """Calls tools/test.py, which must fail: weights, config -> its sentence."""

    def call(weights, config=CONFIG):
        root = [] if "world" in config else ["--data-root", str(camvid_folder)]
        options = [] if "world" in config else ["--cfg-options", *small]
        assert evaluate([config, str(weights), *root, "--work-dir", str(tmp_path / "t"), *options]) == 2
        return capfd.readouterr().err

    return call


def test_weights_of_other_classes(failing_test, small, tmp_path):
    names = NAMES[:9]
    options = ["model.decode_head.num_classes=9", f"model.backbone.names=[{','.join(names)}]"]
    config = load_config(CONFIG, Overrides([*small, *options, "model.decode_head.loss_decode.class_weight=None"]))
    complete_model(config)
    model = MODELS.build(ConfigDict(config.model))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "nine.pth")
    error = failing_test(tmp_path / "nine.pth")
    assert "nine.pth does not fit the model of this config; use the config it was trained with: " in error
    assert "decode_head.conv_seg.weight is [9, 8, 1, 1], expected [11, 8, 1, 1]" in error
    assert "backbone.vpd.conditioning.table is [9, 32], expected [11, 32]" in error
    meta = {"classes": names, "palette": [[0, 0, 0]] * len(names)}
    export_model(model, config.model.to_dict(), meta, tmp_path / "nine", None, {})
    assert "has 9 classes (num_classes), but the data of test_dataloader have 11" in failing_test(tmp_path / "nine")


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        (
            "network.head.last.weight",
            CONFIG,
            "is a model for depth, but the data of this config are for semantic; match",
        ),
        (
            "network.decoder.classifier.bias",
            CONFIG,
            "is a model for referring, but the data of this config are for sem",
        ),
        ("decode_head.conv_seg.weight", "configs/vpd/depth_mini_world.py", "is a model for semantic, but the data of"),
        ("unet.unet.diffusion_model.out.0.bias", CONFIG, "is a checkpoint of VPD's authors; make a folder of it with"),
    ],
)
def test_weights_of_another_task(failing_test, tmp_path, name, config, sentence):
    torch.save({"state_dict": {name: torch.zeros(1)}}, tmp_path / "other.pth")
    assert f"other.pth {sentence}" in failing_test(tmp_path / "other.pth", config)
