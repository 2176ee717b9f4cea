"""Mixed training data: shares, proof of what was drawn, rare class sampling, errors."""

import json
from itertools import islice

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from perception.errors import UserError
from perception.training.app import train
from perception.training.config.load import Overrides
from perception.training.data.mixing import MixedSampler, MixedSources
from perception.training.data.transforms import RareClassCrop
from perception.training.registry import DATASETS
from perception.training.source_counts import check_drawn, describe, source_record

CONFIG = "configs/dginstyle/segmentor_world_generated.py"
PACK = {"type": "PackSegInputs"}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmseg")


def _scenes(count, domain="clear", **more):
    pipeline = [{"type": "perception.ReadRecord"}, PACK]
    scenes = {"type": "perception.WorldScenes", "split": "train", "count": count, "domain": domain, "size": (64, 64)}
    return {**scenes, "pipeline": pipeline, **more}


def _mixed(*counts, **more):
    names = [f"s{i}" for i in range(len(counts))]
    return MixedSources([_scenes(n, d) for n, d in zip(counts, ("clear", "night"), strict=False)], names, **more)


def test_every_sample_tells_its_source():
    mixed = _mixed(3, 2)
    assert len(mixed) == 5
    assert [mixed[i]["data_samples"].source for i in range(5)] == ["s0", "s0", "s0", "s1", "s1"]
    assert "night" in mixed[3]["data_samples"].img_path
    assert len(mixed.metainfo["classes"]) == 19


def test_the_sampler_holds_the_shares():
    mixed = _mixed(30, 10, shares=[0.25, 0.75], length=8)
    stream = list(islice(MixedSampler(mixed, seed=4), 80))
    for start in range(0, 80, 8):
        assert sum(index < 30 for index in stream[start : start + 8]) == 2
    assert stream == list(islice(MixedSampler(mixed, seed=4), 80))
    by_epoch = MixedSampler(mixed, seed=4, forever=False)
    by_epoch.set_epoch(3)
    assert list(by_epoch) == stream[24:32]
    assert len(by_epoch) == 8


def test_processes_share_an_epoch(monkeypatch):
    mixed = _mixed(5, 2)
    whole = list(MixedSampler(mixed, seed=1, forever=False))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("perception.training.data.mixing.get_dist_info", lambda rank=rank: (rank, 2))
        parts.append(list(MixedSampler(mixed, seed=1, forever=False)))
    assert [index for pair in zip(*parts, strict=True) for index in pair] == [*whole, whole[0]]


def test_wrong_sources(camvid_folder):
    with pytest.raises(UserError, match="the source 's1' of MixedSources is empty; check its folders"):
        _mixed(3, 0)
    with pytest.raises(UserError, match="has 2 datasets, but the names"):
        MixedSources([_scenes(1), _scenes(1)], ["one"])
    other = {"type": "perception.CamVid", "data_root": camvid_folder, "split": "train"}
    with pytest.raises(UserError, match=r"world and camvid have different classes: 19 .* and 11 \(sky"):
        MixedSources([_scenes(1), other], ["world", "camvid"])
    with pytest.raises(UserError, match="MixedSampler needs a MixedSources data set, but got WorldScenes"):
        MixedSampler(DATASETS.build(_scenes(2)))


@pytest.fixture
def street(tmp_path):
    """Four frames in the GTA layout; only the last has a train (16), in a corner."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        labels = np.full((40, 60), number % 2, np.uint8)
        if number == 3:
            labels[30:, 50:] = 16
        Image.fromarray(np.stack([labels] * 3, -1)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}_labelTrainIds.png")
    return tmp_path


def _rare(street, **more):
    read = [{"type": "perception.ReadImage"}, {"type": "perception.ReadLabels", "num_classes": 19}]
    crop = {"type": "perception.RareClassCrop", "crop_size": (20, 20), "min_pixels": 30, "tries": 200}
    frames = {"type": "perception.StreetScenes", "domain": "gta", "data_root": str(street)}
    return {
        "type": "perception.RareClasses",
        "min_pixels": 50,
        "dataset": {**frames, "pipeline": [*read, crop, PACK]},
        **more,
    }


def test_rare_classes_come_often(street, tmp_path):
    mixed = MixedSources([_rare(street), _scenes(4)], ["gta", "world"])
    assert mixed.plan(0).counts == (4, 4)  # by files, not by pairs of file and class
    draws = [i for i in islice(MixedSampler(mixed, seed=0), 400) if i < mixed.offsets[1]]
    rare = mixed.datasets[0]
    assert len(draws) == 200
    assert np.mean([rare.pairs[i] == (3, 16) for i in draws]) > 0.9
    sample = mixed[rare.pairs.index((3, 16))]["data_samples"]
    assert (sample.gt_sem_seg.data == 16).sum() > 30
    assert sample.source == "gta"


def test_classes_are_counted_in_train_ids(street):
    for number in range(4):
        raw = np.full((40, 60), 7, np.uint8)  # road; 4 is no class, though it is a train id
        raw[20:, :] = 4
        raw[30:, 50:] = 31 if number == 3 else 6  # train
        Image.fromarray(raw).save(street / "labels" / f"{number}.png")
        (street / "labels" / f"{number}_labelTrainIds.png").unlink()
    config = _rare(street)
    config["dataset"]["domain"] = "gta_raw"
    rare = DATASETS.build(config)
    assert rare.draw.classes == [16, 0] and rare.draw.files[16] == ["3.png"]


def test_class_statistics_from_a_file(street, tmp_path):
    rows = [{"0": 2400, "file": "x/0_labelTrainIds.png"}, {"16": 100, "file": "x/3_labelTrainIds.png"}]
    (tmp_path / "stats.json").write_text(json.dumps(rows))
    rare = DATASETS.build(_rare(street, statistics=str(tmp_path / "stats.json")))
    assert rare.pairs == [(3, 16), (0, 0)]
    (tmp_path / "stats.json").write_text(json.dumps([{"0": 9, "file": "y.png"}]))
    with pytest.raises(UserError, match=r"names y.png, which is not in the data set; leave `statistics` out"):
        DATASETS.build(_rare(street, statistics=str(tmp_path / "stats.json")))
    with pytest.raises(UserError, match=r"none\.json does not exist; check the path"):
        DATASETS.build(_rare(street, statistics=str(tmp_path / "none.json")))


def test_crops_without_a_rare_class_are_random_ones():
    crop = RareClassCrop((4, 4), min_pixels=3)
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5
    sample = {"img": np.zeros((8, 8, 3), np.uint8), "gt_seg_map": labels, "seg_fields": ["gt_seg_map"]}
    assert crop(sample)["img"].shape == (4, 4, 3)


def test_the_record_of_sources():
    periods = [{"drawn": {"a": 30, "b": 10}}, {"drawn": {"a": 30, "b": 10}}]
    record = source_record({"a": 0.75, "b": 0.25}, periods)
    assert record["drawn"] == {"a": 60, "b": 20}
    assert describe(record) == "a 60 (75.0 %, wanted 75.0 %), b 20 (25.0 %, wanted 25.0 %)"
    check_drawn(record)
    dropped = source_record({"a": 0.75, "b": 0.25}, [{"drawn": {"a": 80, "b": 0}}])
    with pytest.raises(UserError, match=r"the source 'b' was never drawn in 80 samples, though 25.0 % were asked for"):
        check_drawn(dropped)


@pytest.fixture
def small_run(generated_folder, tmp_path, unformatted_configs):
    """Trains the union config for a few iterations of 64 x 64 pixels."""

    def call(*options, iterations=8, resume=False):
        dataset = "train_dataloader.dataset"
        small = [
            "model.backbone.model_name=test_resnet",
            *("model.neck.out_channels=8", "model.decode_head.channels=8", "train_dataloader.num_workers=0"),
            *("train_dataloader.persistent_workers=False", "train_dataloader.batch_size=4"),
            *(f"{dataset}.length=16", f"{dataset}.datasets.0.count=6", f"{dataset}.datasets.0.size=(64,64)"),
            *(f"{dataset}.datasets.0.cache=None", f"{dataset}.datasets.1.folder={generated_folder}"),
            *(f"train_cfg.max_iters={iterations}", f"train_cfg.val_interval={iterations}"),
            *("val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False", "val_dataloader.batch_size=2"),
            *("val_dataloader.dataset.count=2", "val_dataloader.dataset.size=(64,64)"),
            "val_dataloader.dataset.cache=None",
            "default_hooks.checkpoint.interval=4",
        ]
        train(CONFIG, Overrides((*small, *options), work_dir=str(tmp_path / "run")), resume=resume)
        return json.loads((tmp_path / "run" / "sources.json").read_text())

    return call


def test_training_proves_what_it_drew(small_run, capfd):
    record = small_run()
    assert record["drawn"] == {"clear": 16, "generated": 16}
    assert record["wanted_share"] == {"clear": 0.5, "generated": 0.5}
    assert [period["to_iteration"] for period in record["periods"]] == [4, 8]
    assert "clear 16 (50.0 %, wanted 50.0 %), generated 16" in capfd.readouterr().out
    assert small_run(iterations=12, resume=True)["drawn"] == {"clear": 24, "generated": 24}


def test_a_sampler_that_drops_a_source_stops_the_run(small_run):
    first_only = "train_dataloader.dataset.shares=[0.5,0.5]"
    with pytest.raises(UserError, match="the source 'generated' was never drawn"):
        small_run(
            first_only,
            "train_dataloader.sampler.type=DefaultSampler",
            "train_dataloader.sampler.shuffle=False",
            "train_dataloader.dataset.datasets.0.count=60",
            iterations=12,
        )
