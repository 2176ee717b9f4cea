"""Data sets of sentences and of depth: which entries, which views, in which epoch."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from perception.data.nyu import NYU_ROOMS
from perception.errors import UserError
from perception.training.config.load import load_config
from perception.training.data.records import NYUDepth, RefCOCO, WorldExpressions
from perception.training.data.views import EpochViews, FixedViews
from perception.training.panels import picture_name
from perception.training.registry import DATASETS

READ = [{"type": "perception.ReadRecord"}]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmseg")


@pytest.mark.parametrize(
    ("name", "split"), [("refcoco", "testA"), ("refcoco", "testB"), ("refcoco+", "val"), ("refcocog", "test")]
)
def test_evaluation_counts_every_sentence_of_a_split(refcoco_folder, name, split):
    dataset = RefCOCO(refcoco_folder, name, split, every=True, pipeline=READ, test_mode=True)
    said = [dataset[i]["sentence"] for i in range(len(dataset))]
    assert said == ["The red one", "left", "blue one", "right", "lower right"] * 2
    first = RefCOCO(refcoco_folder, name, split, every=True, count=1, pipeline=READ)
    assert len(first) == 2  # references are counted, not sentences


@pytest.mark.parametrize("config", ["refer_sd15_refcoco", "refer_mini_world"])
def test_pictures_of_equal_sentences_have_names_of_their_own(refcoco_folder, tmp_path, config):
    dataset = load_config(f"configs/vpd/{config}.py").test_dataloader.dataset.to_dict()
    if config == "refer_mini_world":
        dataset |= {"count": 1, "size": (64, 64), "cache": str(tmp_path)}
    else:
        dataset["data_root"] = str(refcoco_folder)
    samples = [sample["data_samples"] for sample in DATASETS.build(dataset)]
    for sample in samples:
        sample.set_metainfo({"sentence": "left"})
    assert len({picture_name(sample) for sample in samples}) == len(samples) > 1


def test_training_goes_through_the_sentences_of_each_reference(refcoco_folder):
    views = FixedViews(RefCOCO(refcoco_folder, "refcoco", "train", pipeline=READ), views=6)
    assert len(views) == 6 * 4
    said = np.array([views[i]["sentence"] for i in range(len(views))]).reshape(6, 4)
    for number, count in enumerate((2, 3, 2, 3)):
        assert len(set(said[:count, number])) == count  # every one before any comes back
        assert (said[:count, number] == said[count : 2 * count, number]).all()
    again = np.array([views[i]["sentence"] for i in range(len(views))]).reshape(6, 4)
    assert (again == said).all()
    other = {"type": "perception.ReadRecord", "seed": 1}
    moved = FixedViews(RefCOCO(refcoco_folder, "refcoco", "train", pipeline=[other]), views=6)
    assert [moved[i]["sentence"] for i in range(24)] != said.ravel().tolist()


def test_an_epoch_shows_one_view_of_every_sample(refcoco_folder):
    views = FixedViews(RefCOCO(refcoco_folder, "refcoco", "train", pipeline=READ), views=3)
    sampler = EpochViews(views, seed=0)
    assert len(sampler) == 4
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == [4 * (epoch % 3) + i for i in range(4)]
    assert orders[0] != orders[3]  # the same views in another order
    assert list(EpochViews(views, shuffle=False)) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="EpochViews needs a FixedViews data set, but got RefCOCO; wrap it in one"):
        EpochViews(views.dataset)


def test_processes_share_an_epoch(refcoco_folder, monkeypatch):
    views = FixedViews(RefCOCO(refcoco_folder, "refcoco", "train", count=3, pipeline=READ), views=2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, 2))
        sampler = EpochViews(views, seed=0)
        sampler.set_epoch(1)
        shares.append(list(sampler))
    assert [len(share) for share in shares] == [2, 2]  # rounded up
    assert set(shares[0] + shares[1]) == {3, 4, 5}


def test_depth_frames_know_their_room(nyu_folder):
    dataset = NYUDepth(nyu_folder, "sync", "nyudepthv2_train_files_with_gt.txt")
    rooms = [NYU_ROOMS[dataset.get_data_info(i)["given"]] for i in range(len(dataset))]
    assert rooms == ["kitchen", "kitchen", "office", "office"]
    assert len(NYUDepth(nyu_folder, "sync", count=3)) == 3
    (test,) = [NYUDepth(nyu_folder, "official_splits/test", pipeline=[{"type": "perception.ReadRecord"}])[0]]
    assert test["img"].shape == (60, 80, 3) and test["gt_depth_map"].max() == np.float32(8.0)


def test_scenes_have_an_entry_per_expression(tmp_path):
    every = WorldExpressions("val", 2, "clear", (96, 96), str(tmp_path), every=True, pipeline=READ)
    said = [(every[i]["img_path"], every[i]["sentence"]) for i in range(len(every))]
    assert len(set(said)) == len(said) > 2
    views = FixedViews(WorldExpressions("val", 2, "clear", (96, 96), str(tmp_path), pipeline=READ), views=len(said))
    assert {(views[i]["img_path"], views[i]["sentence"]) for i in range(len(views))} == set(said)


def test_data_sets_are_known_by_name(refcoco_folder):
    config = {"type": "perception.RefCOCO", "data_root": refcoco_folder, "name": "refcoco", "split": "train"}
    assert len(DATASETS.build(config)) == 4
    with pytest.raises(UserError, match="has no split 'test'; choose one of testA, testB, train, val"):
        DATASETS.build(config | {"split": "test"})
