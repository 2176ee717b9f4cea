"""The mmseg side of the street scene sets: labels, test sizes, generated folders, colours, the GTA configs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

from perception.errors import UserError
from perception.training.config.load import complete_model, load_config
from perception.training.data.records import GeneratedScenes, StreetScenes
from perception.training.export.mmseg_model import SegmentationModel
from perception.training.registry import DATASETS, MODELS, TRANSFORMS

READ = [{"type": "perception.ReadImage"}, {"type": "perception.ReadLabels", "num_classes": 19}]
CONFIGS = sorted(Path("configs/dginstyle").glob("segformer*.py"))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmseg")


def _pair(root, image, labels, values, size=(60, 40)):
    for path in (root / image, root / labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / image)
    Image.fromarray(np.resize(np.array(values, np.uint8), size[::-1])).save(root / labels)


def test_mapillary_ids_become_train_ids(tmp_path, monkeypatch):
    _pair(tmp_path, "val/images/a.jpg", "val/labels/a.png", [13, 65, 20, 27])
    monkeypatch.setenv("PERCEPTION_MAPILLARY", str(tmp_path))
    scenes = DATASETS.build({"type": "perception.StreetScenes", "domain": "mapillary", "pipeline": READ})
    assert scenes[0]["gt_seg_map"][0, :4].tolist() == [0, 255, 12, 10]
    assert scenes.metainfo["classes"][12] == "rider"


def test_raw_gta_ids_become_train_ids(tmp_path):
    _pair(tmp_path, "images/1.png", "labels/1.png", [7, 0, 33])
    scenes = StreetScenes("gta_raw", "train", str(tmp_path), pipeline=READ)
    assert scenes[0]["gt_seg_map"][0, :3].tolist() == [
        0,
        255,
        18,
    ]


@pytest.mark.parametrize(("domain", "size"), [("cityscapes", (512, 1024)), ("acdc", (540, 960))])
def test_every_set_has_its_test_size(domain, size):
    scale = {"cityscapes": (1024, 512), "acdc": (960, 540)}[domain]
    fit = TRANSFORMS.build({"type": "perception.FitTestScale"})
    sample = fit({"img": np.zeros((1080, 1920 if domain == "acdc" else 2160, 3), np.uint8), "test_scale": scale})
    assert sample["img"].shape[:2] == size == sample["img_shape"]


def test_generated_folders_are_data_sets(generated_folder):
    scenes = GeneratedScenes(str(generated_folder), pipeline=READ)
    assert len(scenes) == 4
    assert scenes[1]["img"].shape == (64, 64, 3)
    assert (scenes[1]["gt_seg_map"][:2] == 255).all()
    assert len(GeneratedScenes(str(generated_folder), pipeline=READ, indices=2)) == 2


def test_generated_folders_of_other_classes_are_refused(generated_folder):
    (generated_folder / "job.json").write_text(json.dumps({"options": {"classes": ["tree", "road"]}}))
    with pytest.raises(UserError, match="GeneratedScenes has 19 classes, but the data set 2"):
        GeneratedScenes(str(generated_folder), pipeline=READ)


def test_strong_colours_change_the_image_and_follow_the_worker_seed():
    strong, none = (
        TRANSFORMS.build({"type": "perception.StrongColours", "strength": strength}) for strength in (1.0, 0.0)
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)

    def means(seed):
        np.random.seed(seed)  # as mmengine does in every worker
        return [strong({"img": image})["img"].mean() for _ in range(20)]

    assert means(1) == means(1) != means(2)
    assert np.std(means(1)) > 20
    np.random.seed(0)
    assert np.abs(none({"img": image})["img"].astype(int) - image).max() <= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_gta_configs_build(path):
    config = load_config(path)
    sources = config.train_dataloader.dataset
    assert len(sources.names) == len(sources.datasets)
    assert config.train_cfg.max_iters == 40000
    small = {"embed_dims": 8, "num_layers": [1, 1, 1, 1], "init_cfg": None}
    config.model.backbone.update(small)
    config.model.decode_head.channels = 8
    complete_model(config)
    assert config.model.decode_head.in_channels == [8, 16, 40, 64]
    model = MODELS.build(config.model).eval()
    meta = {"ori_shape": (512, 512), "img_shape": (512, 512)}
    assert model.inference(torch.zeros(1, 3, 512, 512), [meta]).shape == (1, 19, 512, 512)


def test_exported_models_normalise_their_images():
    config = load_config(CONFIGS[0])
    config.model.backbone.update({"embed_dims": 8, "num_layers": [1, 1, 1, 1], "init_cfg": None})
    config.model.decode_head.channels = 8
    config.model.test_cfg = {"mode": "whole"}
    complete_model(config)
    names = [f"c{i}" for i in range(19)]
    model = SegmentationModel(config.model.to_dict(), names, [[i, i, i] for i in range(19)])
    image = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(config.model.data_preprocessor[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    meta = {"ori_shape": (64, 64), "img_shape": (64, 64), "pad_shape": (64, 64)}
    with torch.inference_mode():
        expected = model.segmentor.inference((image * 255 - mean) / std, [meta])
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
