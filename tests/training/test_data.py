"""Data sets and transforms of the mmseg side: fixed views, label checks, the miniature world."""

from typing import ClassVar

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from perception.data import street_sets
from perception.errors import UserError
from perception.training.data.records import CamVid, Records, SegmentationFolder, WorldScenes
from perception.training.data.transforms import FixedCrop, ReadLabels
from perception.training.data.views import FixedViews
from perception.training.registry import DATASETS, TRANSFORMS


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmseg")


READ = [{"type": "perception.ReadImage"}, {"type": "perception.ReadLabels", "num_classes": 11}]


def test_camvid_reads_bgr_images_and_labels(camvid_folder):
    dataset = CamVid(camvid_folder, "train", pipeline=READ)
    assert len(dataset) == 4
    assert dataset.metainfo["classes"][3] == "road"
    sample = dataset[0]
    assert sample["img"].shape == (64, 96, 3)
    assert sample["ori_shape"] == (64, 96)
    assert sample["gt_seg_map"].shape == (64, 96)
    stored = np.asarray(Image.open(camvid_folder / "annotations/train/train0.png"))
    assert (sample["gt_seg_map"] == stored).all()


def test_images_travel_as_bgr(tmp_path):
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "red.png")
    sample = TRANSFORMS.build({"type": "perception.ReadImage"})({"img_path": tmp_path / "red.png"})
    assert sample["img"][0, 0].tolist() == [0, 0, 255]


def test_indices_take_a_subset(camvid_folder):
    assert len(CamVid(camvid_folder, "train", pipeline=READ, indices=3)) == 3
    assert (
        CamVid(camvid_folder, "train", pipeline=READ, indices=[2]).get_data_info(0)["img_path"].endswith("train2.jpg")
    )


def test_fixed_views_mirror_the_odd_ones(camvid_folder):
    inner = {
        "type": "perception.CamVid",
        "data_root": camvid_folder,
        "split": "val",
        "pipeline": [*READ, {"type": "perception.FlipOddViews"}],
    }
    views = DATASETS.build({"type": "perception.FixedViews", "views": 2, "dataset": inner})
    assert len(views) == 4
    plain, mirrored = views[1], views[3]
    assert (plain["img"] == mirrored["img"][:, ::-1]).all()
    assert (plain["gt_seg_map"] == mirrored["gt_seg_map"][:, ::-1]).all()
    assert views.metainfo["classes"] == CamVid.METAINFO["classes"]
    with pytest.raises(UserError, match="views is 0; expected at least 1"):
        FixedViews(inner, views=0)


def test_fixed_crops_come_back_in_every_epoch(camvid_folder):
    pipeline = [*READ, {"type": "perception.FixedCrop", "size": (80, 48), "scale": (0.5, 2.0)}]
    dataset = FixedViews(CamVid(camvid_folder, "train", pipeline=pipeline), views=3)
    first, again = ([dataset[i] for i in range(12)] for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a["img"].shape == (80, 48, 3)
        assert a["gt_seg_map"].shape == (80, 48)
        assert (a["img"] == b["img"]).all()
        assert (a["gt_seg_map"] == b["gt_seg_map"]).all()
    assert len({a["img"].tobytes() for a in first}) == 12


def test_crops_keep_image_and_labels_together():
    labels = np.random.default_rng(0).integers(0, 5, (8, 12)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    crop = FixedCrop((64, 64), scale=(2.0, 2.0))
    for view in range(6):
        sample = {
            "img_path": "x",
            "view": view,
            "img": np.stack([labels] * 3, -1),
            "gt_seg_map": labels,
            "seg_fields": ["gt_seg_map"],
        }
        out = crop(sample)
        assert (out["img"][..., 0] == out["gt_seg_map"]).mean() > 0.85  # the rest: blended at the borders


@pytest.mark.parametrize(
    ("size", "fill", "sentence"),
    [
        ((96, 64), 11, r"train0.png holds class ids \[11\], but there are 11 classes: use 0..10"),
        ((90, 64), 0, r"train0.png is 90 x 64 pixels but its image 96 x 64; both must have the same size"),
    ],
)
def test_bad_label_maps(tmp_path, size, fill, sentence):
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train").mkdir(parents=True)
    Image.new("RGB", (96, 64)).save(tmp_path / "images/train/train0.jpg")
    Image.new("L", size, fill).save(tmp_path / "annotations/train/train0.png")
    with pytest.raises(UserError, match=sentence):
        CamVid(tmp_path, "train", pipeline=READ)[0]


def test_zero_label_and_class_map(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(tmp_path / "a.png")
    sample = {"seg_map_path": tmp_path / "a.png", "ori_shape": (2, 2), "reduce_zero_label": True}
    assert ReadLabels(2)(dict(sample))["gt_seg_map"].tolist() == [[255, 0], [1, 255]]
    sample = {"seg_map_path": tmp_path / "a.png", "ori_shape": (2, 2), "label_map": {0: 255, 1: 0, 2: 1}}
    assert ReadLabels(2)(dict(sample))["gt_seg_map"].tolist() == [[255, 0], [1, 255]]


def test_own_classes(camvid_folder):
    meta = {"classes": tuple("abcdefghijk"), "palette": [[i, i, i] for i in range(11)]}
    dataset = SegmentationFolder(camvid_folder, "test", pipeline=READ, metainfo=meta)
    assert dataset.metainfo["classes"] == meta["classes"]
    assert len(dataset) == 2


def test_world_scenes_are_rendered_once(tmp_path):
    pipeline = [{"type": "perception.ReadRecord"}]
    dataset = WorldScenes("val", 2, "night", (64, 64), str(tmp_path), pipeline=pipeline)
    first = dataset[1]
    assert first["img"].shape == (64, 64, 3)
    assert first["gt_seg_map"].shape == (64, 64)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    again = dataset[1]
    assert (first["img"] == again["img"]).all()
    assert (first["gt_seg_map"] == again["gt_seg_map"]).all()
    assert files[0].stat().st_mtime_ns == stamp
    assert dataset[0]["img_path"] != again["img_path"]
    with pytest.raises(UserError, match="has no domain 'dusk'; choose one of clear, night"):
        WorldScenes("val", 2, "dusk")
    with pytest.raises(UserError, match="has no split 'dev'; choose one of train, val, test"):
        WorldScenes("dev", 2)


@pytest.mark.parametrize("indices", [None, [1]])
def test_a_source_reads_the_same_without_mmseg(camvid_folder, indices):
    source, dataset = street_sets.CamVid(camvid_folder, "train"), CamVid(camvid_folder, "train", indices=indices)
    record = source.record(1)
    sample = TRANSFORMS.build({"type": "perception.ReadRecord"})(dataset.get_data_info(0 if indices else 1))
    assert (sample["img"] == record["image"][..., ::-1]).all()
    assert (sample["gt_seg_map"] == record["labels"]).all()
    assert sample["img_path"] == source.about(1)["img_path"]


class Captions:
    """A source as a new task would bring it."""

    metainfo: ClassVar = {"task": "caption"}

    def __len__(self):
        return 2

    def about(self, index):
        return {"img_path": f"picture {index}"}

    def record(self, index):
        return {"image": np.full((4, 6, 3), index, np.uint8), "caption": f"number {index}"}


def test_a_new_task_is_a_source_alone():
    pack = {"type": "PackSegInputs", "meta_keys": ["img_path", "caption"]}
    views = FixedViews(Records(Captions(), [{"type": "perception.ReadRecord"}, pack], test_mode=True), views=2)
    sample = views[3]
    assert sample["data_samples"].caption == "number 1" and sample["data_samples"].img_path == "picture 1"
    assert sample["inputs"].shape == (3, 4, 6) and views.metainfo["task"] == "caption"
