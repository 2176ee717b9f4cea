"""Crops for both stages: what is cut where, held-out parts, statistics, and error sentences."""

import json
import shutil

import numpy as np
import pytest
from mmseg.datasets import PackSegInputs
from PIL import Image

from perception.errors import UserError
from perception.training.config.classes import check_classes, palette_of
from perception.training.data.generator_data import ControlCrops, SourceCrops
from perception.training.data.views import FixedViews

PACK = [{"type": PackSegInputs}]
SIZE = (32, 32)


@pytest.fixture
def gta(tmp_path):
    """Four frames of 80 x 96; grey levels are labels: road, a car that moves, ignored rows."""
    root = tmp_path / "gta"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        labels = np.zeros((80, 96), np.uint8)
        labels[30:50, 10 * number : 10 * number + 30] = 13
        labels[70:] = 255
        Image.fromarray(np.repeat(labels[..., None], 3, 2)).save(root / "images" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}_labelTrainIds.png")
    return root


def test_control_crops(gta):
    data = ControlCrops(str(gta), "gta", crop="rare", min_pixels=100, size=SIZE, pipeline=PACK)
    views = FixedViews(data, 2)
    packed = views[1]
    labels = packed["data_samples"].gt_sem_seg.data[0].numpy()
    assert packed["inputs"].shape == (3, *SIZE) and np.array_equal(packed["inputs"][0].numpy(), labels)
    assert packed["data_samples"].img_path == "1"
    assert np.array_equal(views[1]["inputs"], packed["inputs"])
    seen = {views[i]["inputs"].numpy().tobytes() for i in range(8)}
    assert len(seen) > 4  # the second view shows other crops
    assert data.metainfo["classes"][13] == "car" and len(data.metainfo["palette"]) == 19


def test_source_crops_and_parts(gta):
    parts = [SourceCrops(str(gta), part=part, held_out=1, size=SIZE, pipeline=PACK) for part in ("train", "val")]
    names = [[part[i]["data_samples"].img_path for i in range(len(part))] for part in parts]
    assert names == [["0", "1", "2"], ["3"]]
    assert parts[0][0]["inputs"].shape == (3, *SIZE)


def test_folder_layout_of_camvid(camvid_folder):
    data = ControlCrops(str(camvid_folder), split="train", names="perception.CamVid", size=SIZE, pipeline=PACK)
    assert len(data) == 4 and data[0]["data_samples"].gt_sem_seg.data.shape == (1, *SIZE)
    assert len(data.metainfo["classes"]) == 11 == len(palette_of("perception.CamVid"))
    assert palette_of(["a", "b"]) == []


def test_counted_statistics_are_read(gta, tmp_path):
    file = tmp_path / "stats.json"
    rows = [{"13": 600, "file": f"elsewhere/{number}_labelTrainIds.png"} for number in range(4)]
    file.write_text(json.dumps(rows))
    data = ControlCrops(str(gta), "gta", crop="rare", min_pixels=500, size=SIZE, statistics=str(file), pipeline=PACK)
    assert all(13 in data[i]["data_samples"].gt_sem_seg.data for i in range(4))
    file.write_text(json.dumps(rows[:2]))
    with pytest.raises(UserError, match="know 2 of 4 label maps; leave `statistics` out"):
        ControlCrops(str(gta), "gta", crop="rare", statistics=str(file))
    file.write_text("{")
    with pytest.raises(UserError, match=r"the class statistics .*stats\.json is no JSON"):
        ControlCrops(str(gta), "gta", crop="rare", statistics=str(file))


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (SourceCrops, {"folder": "nothing"}, r"nothing holds no image \(.jpg, .jpeg, .png\); check the data root"),
        (SourceCrops, {"part": "test"}, "part is 'test'; expected one of all, train, val"),
        (SourceCrops, {"part": "val", "held_out": 4}, "has 4 pictures, and held_out is 4"),
        (ControlCrops, {"layout": "gta", "split": "val"}, "expected 'gta', or 'folder' with a split"),
        (ControlCrops, {"split": "train"}, "has no split 'train'"),
    ],
)
def test_bad_folders(gta, kind, options, sentence):
    with pytest.raises(UserError, match=sentence):
        kind(str(gta), **options)


def test_empty_folder_and_unknown_ids(gta):
    path = gta / "labels" / "0_labelTrainIds.png"
    Image.fromarray(np.full((80, 96), 33, np.uint8)).save(path)
    data = ControlCrops(str(gta), "gta", size=SIZE, pipeline=PACK)
    with pytest.raises(UserError, match=r"0_labelTrainIds\.png holds class ids \[33\], but there are 19 classes"):
        data[0]
    with pytest.raises(UserError, match=r"holds the class ids \[33\]"):
        ControlCrops(str(gta), "gta", crop="rare", size=SIZE)
    for folder in ("images", "labels"):
        shutil.rmtree(gta / folder)
        (gta / folder).mkdir()
    with pytest.raises(UserError, match="holds no image"):
        ControlCrops(str(gta), "gta", size=SIZE)


def test_classes_of_control_and_data_must_agree(camvid_folder):
    model = {"type": "perception.ControlGenerator", "names": "perception.WorldScenes"}
    data = ControlCrops(str(camvid_folder), split="train", names="perception.CamVid", size=SIZE)
    with pytest.raises(
        UserError, match=r"told the 19 classes of model\.names, but the data of train_dataloader have 11"
    ):
        check_classes(model, data.metainfo["classes"], "train_dataloader")
