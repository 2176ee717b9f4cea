"""tools/test.py --tta: the views of the test pipeline, and figures from end to end."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image

from perception.errors import UserError
from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.registry import DATASETS, MODELS
from perception.training.tta import VPD_RATIOS, Views, augment_pipeline

CONFIG = "configs/fpn/fpn_mini_camvid.py"
SEED = 3  # weights for which an untrained head hits some labels: mIoU 3.0, of two views 5.1


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


evaluate = _tool("test")


@pytest.fixture
def run(camvid_folder, small, tmp_path):
    """Calls tools/test.py on an untrained head: arguments -> (exit status, report)."""
    config = load_config(CONFIG, Overrides(small))
    complete_model(config)
    checkpoint = tmp_path / "untrained.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        torch.save({"state_dict": MODELS.build(ConfigDict(config.model)).state_dict()}, checkpoint)

    def call(*arguments, config=CONFIG):
        common = [config, str(checkpoint), "--data-root", str(camvid_folder), "--work-dir", str(tmp_path / "t")]
        status = evaluate([*common, *arguments, "--cfg-options", *small])
        report = tmp_path / "t" / "test_metrics.json"
        return status, json.loads(report.read_text()) if report.exists() else None

    return call


def test_one_view_is_the_plain_test(run, tmp_path):
    status, plain = run()
    assert status == 0
    assert run("--tta", "1.0", "--no-flip") == (0, plain)
    status, several = run("--tta", "1.0", "1.5", "--show-dir", str(tmp_path / "pictures"))
    assert status == 0
    assert several["pixels"] == plain["pixels"]
    assert several["mIoU"] != plain["mIoU"]
    assert Image.open(tmp_path / "pictures" / "test1.png").size == (3 * 96, 64)


def test_views_of_an_image(camvid_folder):
    config = load_config(CONFIG, Overrides(data_root=str(camvid_folder)))
    augment_pipeline(config, Views())
    sample = DATASETS.build(config.test_dataloader.dataset.to_dict())[0]
    sizes = [tuple(image.shape) for image in sample["inputs"]]
    assert sizes == [(3, round(256 * r), round(320 * r)) for r in VPD_RATIOS for _ in range(2)]
    for plain, mirrored in zip(sample["inputs"][::2], sample["inputs"][1::2], strict=True):
        assert torch.equal(plain, mirrored.flip(2))
    assert [s.metainfo["flip"] for s in sample["data_samples"]] == [False, True] * 5
    first = sample["data_samples"][0].gt_sem_seg.data
    assert first.shape == (1, 64, 96)
    assert all(torch.equal(s.gt_sem_seg.data, first) for s in sample["data_samples"])  # labels stay as they are


def test_data_samples_that_name_their_keys_are_mirrored_back_too(camvid_folder):
    config = load_config(CONFIG, Overrides(data_root=str(camvid_folder)))
    keys = ["img_path", "ori_shape", "img_shape", "flip"]
    config.test_dataloader.dataset.pipeline[-1]["meta_keys"] = keys
    augment_pipeline(config, Views((1.0,)))
    samples = DATASETS.build(config.test_dataloader.dataset.to_dict())[0]["data_samples"]
    assert [s.metainfo.get("flip", False) for s in samples] == [False, True]
    assert samples[1].metainfo["flip_direction"] == "horizontal"
    assert set(samples[1].metainfo) == {*keys, "flip_direction"}


def test_mistakes(run, capfd):
    assert run("--tta", "0")[0] == 2
    assert "the scales of --tta are [0.0]; expected positive factors such as 1.0 1.25" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("--no-flip")
    assert "--no-flip leaves mirror images out of --tta; add --tta, or leave --no-flip out" in capfd.readouterr().err
    config = load_config("configs/fpn/fpn_mini_world.py")
    with pytest.raises(UserError, match=r"--tta varies the scale of a Resize in .*pipeline, and there is none"):
        augment_pipeline(config, Views())


def test_other_tasks_have_no_class_probabilities(tmp_path, capfd):
    checkpoint = tmp_path / "depth.pth"
    torch.save({"state_dict": {"network.head.last.weight": torch.zeros(1)}}, checkpoint)
    assert evaluate(["configs/vpd/depth_mini_world.py", str(checkpoint), "--tta"]) == 2
    assert (
        "--tta averages class probabilities, but configs/vpd/depth_mini_world.py is for depth" in capfd.readouterr().err
    )
