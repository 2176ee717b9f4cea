"""The configs of the published referring and depth networks: their protocol, and trained on tiny folders."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from safetensors.torch import load_file

from perception.metrics.depth import NYU_CROP
from perception.training.config.load import load_config
from perception.training.registry import MODELS

REFERRING = {
    "refcoco": ("refcoco", 40),
    "refcocoplus": ("refcoco+", 40),
    "refcocog": ("refcocog", 77),
}
DEPTH = "configs/vpd/depth_sd15_nyu.py"


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train, evaluate = _tool("train"), _tool("test")


def _path(name):
    return f"configs/vpd/refer_sd15_{name}.py"


@pytest.mark.parametrize("name", REFERRING)
def test_the_protocol_of_referring_segmentation(name):
    config, (data, length) = load_config(_path(name)), REFERRING[name]
    train_data = config.train_dataloader.dataset
    assert {data} == {train_data.dataset.name, config.val_dataloader.dataset.name, config.test_dataloader.dataset.name}
    assert train_data.views == config.train_cfg.max_epochs == 40  # another sentence in every epoch
    assert not train_data.dataset.get("every") and config.val_dataloader.dataset.every
    assert config.model.network.length == length and config.model.network.train == "denoiser"
    assert config.train_dataloader.batch_size * 8 == 32


def test_the_protocol_of_depth():
    config = load_config(DEPTH)
    assert config.train_dataloader.dataset.views == config.train_cfg.max_epochs == 25
    assert config.train_dataloader.batch_size * 8 == 24
    assert tuple(config.test_evaluator.crop) == NYU_CROP and config.test_evaluator.max_depth == 10
    assert (config.model.windows, config.model.flip) == (2, True)


@pytest.mark.parametrize("path", [DEPTH, "configs/vpd/depth_mini_world.py"])
def test_padding_of_smaller_images_has_no_depth(path):
    preprocessor = MODELS.build(load_config(path).model.data_preprocessor.to_dict())
    sizes = ((48, 64), (64, 48))
    samples = [SegDataSample(gt_depth_map=PixelData(data=torch.full((1, *size), 2.0))) for size in sizes]
    data = {"inputs": [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes], "data_samples": samples}
    for sample, (height, width) in zip(preprocessor(data, training=True)["data_samples"], sizes, strict=True):
        depth = sample.gt_depth_map.data
        assert depth.shape == (1, 64, 64) and (depth[:, :height, :width] == 2).all()
        assert depth.sum() == 2 * height * width


def _small(tiny_sd, **options):
    """Overrides for a run of seconds, fine-tuned as published."""
    options = {"model.network.backbone": tiny_sd, "train_dataloader.dataset.views": 2, **options}
    for mode in ("train", "val", "test"):
        options |= {f"{mode}_dataloader.num_workers": 0, f"{mode}_dataloader.batch_size": 2}
        options[f"{mode}_dataloader.persistent_workers"] = "False"
    return [f"{key}={value}" for key, value in options.items()]


def _refer_options(tiny_sd, tmp_path, **more):
    sizes = {f"{mode}_dataloader.dataset.pipeline.1.size": "(64,64)" for mode in ("val", "test")}
    sizes["train_dataloader.dataset.dataset.pipeline.1.size"] = "(64,64)"
    return _small(tiny_sd, **{"model.network.hidden": 8, "model.store": tmp_path / "store", **sizes, **more})


def _depth_options(tiny_sd, tmp_path, **more):
    widths = {"model.network.fusion_channels": 16, "model.network.num_filters": "[8,8,8]"}
    widths |= {"model.network.decoder_channels": 8, "model.network.templates": "['a {}']"}
    crop = {"train_dataloader.dataset.dataset.pipeline.2.size": "(48,48)"}
    return _small(tiny_sd, **{**widths, **crop, **more})


def _train_resume_test(config, root, options, work):
    """One epoch, a second one by resuming, and the test report of the exported folder; pictures beside it."""
    common = ["--data-root", str(root), "--work-dir"]
    assert train([config, *common, str(work), "--cfg-options", *options, "train_cfg.max_epochs=1"]) == 0
    assert train([config, *common, str(work), "--resume", "--cfg-options", *options, "train_cfg.max_epochs=2"]) == 0
    metrics = json.loads((work / "metrics.json").read_text())
    assert [entry["epoch"] for entry in metrics["validation"]] == [1, 2]
    show = ["--show-dir", str(work / "pictures"), "--cfg-options", *options]
    assert evaluate([config, str(work / "model"), *common, str(work / "test"), *show]) == 0
    return metrics, json.loads((work / "test" / "test_metrics.json").read_text())


def test_referring_trains_and_counts_every_sentence(refcoco_folder, tiny_sd, tmp_path):
    config, work = _path("refcocog"), tmp_path / "run"
    options = [*_refer_options(tiny_sd, tmp_path), "test_dataloader.dataset.split=test"]
    metrics, report = _train_resume_test(config, refcoco_folder, options, work)
    assert metrics["best"]["sentences"] == report["sentences"] == 10  # two photographs, 2 + 3 sentences each
    pictures = sorted((work / "pictures").glob("*.png"))
    assert len(pictures) == 10 and pictures[0].name.endswith("_The-red-one.png")
    assert {Image.open(path).size for path in pictures} == {(3 * 64, 64)}

    saved = json.loads((work / "model" / "config.json").read_text())
    assert saved["metrics"]["oIoU"] == metrics["best"]["oIoU"] and saved["train"] == "denoiser"
    weights = load_file(work / "model" / "model.safetensors")
    pristine = load_file(next((tiny_sd / "unet").glob("*.safetensors")))
    moved = [name for name, value in pristine.items() if not torch.equal(weights[f"encoder.unet.{name}"], value)]
    assert len(moved) > 100  # the denoiser was trained, and is part of the folder

    place = ["--data-root", str(refcoco_folder), "--work-dir", str(tmp_path / "full")]
    place += ["--show-dir", str(tmp_path / "full"), "--cfg-options", *options]
    assert evaluate([config, str(work / "model"), *place, "test_dataloader.dataset.pipeline.1.maps=False"]) == 0
    assert {Image.open(path).size for path in (tmp_path / "full").glob("*.png")} == {(3 * 96, 64)}  # the photograph's


def test_frozen_referring_needs_one_line(refcoco_folder, tiny_sd, tmp_path):
    """The line of the config's docstring."""
    frozen = {"model.network.train": "head", "model.network.adapter": "False", "train_dataloader.dataset.views": 1}
    options = _refer_options(tiny_sd, tmp_path, **frozen)
    arguments = [_path("refcoco"), "--data-root", str(refcoco_folder), "--work-dir", str(tmp_path / "run")]
    assert train([*arguments, "--cfg-options", *options, "train_cfg.max_epochs=1"]) == 0
    weights = (tmp_path / "run/model/model.safetensors").stat().st_size
    assert weights < 300_000  # the head alone
    assert all("model.network.train=head" in Path(_path(name)).read_text() for name in REFERRING)
    assert "model.network.train=head" in Path(DEPTH).read_text()


def test_depth_trains_and_is_tested_by_windows(nyu_folder, tiny_sd, tmp_path):
    work = tmp_path / "run"
    metrics, report = _train_resume_test(DEPTH, nyu_folder, _depth_options(tiny_sd, tmp_path), work)
    assert metrics["best"]["rmse"] == min(entry["rmse"] for entry in metrics["validation"])
    assert report["rmse"] == pytest.approx(metrics["best"]["rmse"], rel=1e-4)
    assert report["images"] == 1
    assert report["pixels"] == (60 - 45) * (80 - 41)  # Eigen's crop of 60 x 80 pixels, all of them measured
    assert Image.open(work / "pictures" / "bathroom_rgb_00045.png").size == (3 * 80, 60)
    config = json.loads((work / "model" / "config.json").read_text())
    assert config["image_size"] == [48, 48] and config["train"] == "denoiser"
    table = load_file(work / "model" / "model.safetensors")["encoder.conditioning.table"]
    assert config["templates"] == [] and len(table) == 27 and table.abs().max() > 0  # it comes with the weights


def test_frozen_depth_needs_one_line(nyu_folder, tiny_sd, tmp_path):
    line = {"model.network.train": "head", "model.network.adapter": "False", "model.store": tmp_path / "store"}
    options = [*_depth_options(tiny_sd, tmp_path, **line), "train_cfg.max_epochs=1"]
    arguments = [DEPTH, "--data-root", str(nyu_folder), "--work-dir", str(tmp_path / "run")]
    assert train([*arguments, "--cfg-options", *options]) == 0
    assert (tmp_path / "run/model/model.safetensors").stat().st_size < 400_000
    assert "model.network.train=head" in Path(DEPTH).read_text()


def test_a_mistyped_key_and_a_missing_folder(tmp_path, capfd):
    wrong = ["--cfg-options", "train_dataloader.dataset.dataset.splitt=val", "optim_wrapper.paramwise_cfg.rules=x"]
    assert train([_path("refcoco"), *wrong]) == 2
    error = capfd.readouterr().err
    assert "RefCOCO takes no 'splitt'; did you mean split?" in error and "'rules'; did you mean rule?" in error
    assert train([DEPTH, "--data-root", str(tmp_path / "none")]) == 2
    assert "none of train_dataloader does not exist; download the data set" in capfd.readouterr().err
    (tmp_path / "sync").mkdir()
    assert train([DEPTH, "--data-root", str(tmp_path)]) == 2
    assert "the file list" in capfd.readouterr().err
