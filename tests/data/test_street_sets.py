"""Layouts and label ids of the street scene sets."""

import pytest

from perception.data.street_sets import MAPILLARY_TRAIN_ID, STREET_SETS, label_table, street_images, street_set
from perception.errors import UserError

FILES = {  # one pair of each set's validation split
    "gta": ("images/00001.png", "labels/00001_labelTrainIds.png"),
    "gta_raw": ("images/00001.png", "labels/00001.png"),
    "cityscapes": (
        "leftImg8bit/val/bonn/bonn_0_1_leftImg8bit.png",
        "gtFine/val/bonn/bonn_0_1_gtFine_labelTrainIds.png",
    ),
    "bdd100k": ("images/10k/val/7d06.jpg", "labels/sem_seg/masks/val/7d06.png"),
    "mapillary": ("val/images/-Kx.jpg", "val/labels/-Kx.png"),
    "acdc": ("rgb_anon/fog/val/G1/G1_7_rgb_anon.png", "gt/fog/val/G1/G1_7_gt_labelTrainIds.png"),
    "dark_zurich": (
        "rgb_anon/val/night/GOPR0356/GOPR0356_1_rgb_anon.png",
        "gt/val/night/GOPR0356/GOPR0356_1_gt_labelTrainIds.png",
    ),
}


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("name", STREET_SETS)
def test_every_set_finds_its_pairs(name, tmp_path):
    image, labels = (tmp_path / file for file in FILES[name])
    _touch(image, labels)
    (pair,) = street_images(name, tmp_path, "val")
    assert (pair.image, pair.labels) == (image, labels)


def test_the_splits_of_acdc_lie_below_its_conditions(tmp_path):
    for condition, split in (("fog", "val"), ("night", "val"), ("rain", "train")):
        _touch(tmp_path / f"rgb_anon/{condition}/{split}/a/a_1_rgb_anon.png")
        _touch(tmp_path / f"gt/{condition}/{split}/a/a_1_gt_labelTrainIds.png")
    assert [p.stem for p in street_images("acdc", tmp_path, "val")] == ["fog/val/a/a_1", "night/val/a/a_1"]


@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "validation")])
def test_mapillary_as_its_archive_unpacks(tmp_path, split, folder):
    _touch(tmp_path / folder / "images/a.jpg", tmp_path / folder / "labels/a.png")
    assert [pair.image for pair in street_images("mapillary", tmp_path, split)] == [tmp_path / folder / "images/a.jpg"]
    _touch(tmp_path / split / "images/b.jpg", tmp_path / split / "labels/b.png")
    assert [pair.stem for pair in street_images("mapillary", tmp_path, split)] == ["b"]


def test_label_ids():
    assert label_table(street_set("cityscapes")) is None
    mapillary = label_table(street_set("mapillary"))
    assert len(mapillary) == 256
    assert [mapillary[i] for i in (13, 24, 41, 15, 19, 20, 65, 0)] == [0, 0, 0, 1, 11, 12, 255, 255]
    assert sorted(set(MAPILLARY_TRAIN_ID.values())) == list(range(19))
    assert [label_table(street_set("gta_raw"))[i] for i in (7, 33, 34, 0)] == [0, 18, 255, 255]


def test_broken_sets(tmp_path):
    with pytest.raises(UserError, match="there is no street scene set 'kitti'; choose one of gta, gta_raw, cityscapes"):
        street_images("kitti", tmp_path, "val")
    with pytest.raises(UserError, match="does not exist; expected the set 'bdd100k' in"):
        street_images("bdd100k", tmp_path, "val")
    _touch(tmp_path / "images/10k/val/a.jpg", tmp_path / "labels/sem_seg/masks/val/b.png")
    with pytest.raises(UserError, match="has 2 images or label maps without partner, first a"):
        street_images("bdd100k", tmp_path, "val")
    _touch(tmp_path / "rgb_anon/fog/train/a_rgb_anon.png", tmp_path / "gt/x")
    with pytest.raises(UserError, match=r"holds no \*_rgb_anon.png of the split 'val'"):
        street_images("acdc", tmp_path, "val")
