"""Tiny folders laid out as CamVid, RefCOCO and NYUv2, and the overrides that train the CamVid config in seconds."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from perception.data.world import CLASSES

CONFIG = "configs/fpn/fpn_mini_camvid.py"


def write_sample(root, split, stem, seed, classes=11):
    """One image of vertical stripes, one class (and brightness) per stripe, 96 x 64 pixels."""
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    stripes = np.random.default_rng(seed).integers(0, classes, 6)
    labels = np.repeat(stripes, 16)[None].repeat(64, 0).astype(np.uint8)
    Image.fromarray(np.stack([labels * 20] * 3, -1)).save(root / "images" / split / f"{stem}.jpg")
    labels[:4] = 255
    Image.fromarray(labels).save(root / "annotations" / split / f"{stem}.png")


@pytest.fixture(scope="session")
def camvid_folder(tmp_path_factory):
    """Four training, two validation and two test images."""
    root = tmp_path_factory.mktemp("camvid")
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for index in range(count):
            write_sample(root, split, f"{split}{index}", (count, ord(split[1]), index))
    return root


@pytest.fixture
def small(tiny_sd, tmp_path):
    """`--cfg-options` for a run of seconds: the tiny backbone, 64 x 64 pixels, no worker processes."""
    options = {
        "model.backbone.name": tiny_sd,
        "model.backbone.store": tmp_path / "store",
        "model.neck.out_channels": 8,
        "model.decode_head.channels": 8,
        "train_dataloader.dataset.views": 2,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "param_scheduler.0.end": 2,
        "train_dataloader.dataset.dataset.pipeline.2.scale": "(64,64)",
    }
    for mode in ("train", "val", "test"):
        options |= {f"{mode}_dataloader.num_workers": 0, f"{mode}_dataloader.batch_size": 2}
        options[f"{mode}_dataloader.persistent_workers"] = "False"
    for mode in ("val", "test"):
        options[f"{mode}_dataloader.dataset.pipeline.1.scale"] = "(64,64)"
    return [f"{key}={value}" for key, value in options.items()]


def _box(left, top, width, height):
    """A rectangle as a COCO polygon."""
    return [left, top, left + width, top, left + width, top + height, left, top + height]


@pytest.fixture(scope="session")
def refcoco_folder(tmp_path_factory):
    """The REFER layout: per split two photographs of 96 x 64 with two things each, of two and three sentences."""
    root = tmp_path_factory.mktemp("refer")
    place = root / "images/mscoco/images/train2014"
    place.mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number in range(8):
        name = f"COCO_train2014_{number:012d}.jpg"
        pixels = np.full((64, 96, 3), 30 * number, np.uint8)
        pixels[10:40, 8:40], pixels[30:60, 50:90] = (255, 0, 0), (0, 0, 255)
        Image.fromarray(pixels).save(place / name, quality=95)
        images.append({"id": number, "file_name": name, "height": 64, "width": 96})
        runs = [50 * 64 + 30, *([30, 34] * 39), 30, 4 + 64 * 6]  # columns 50..89, rows 30..59
        for thing, outline in enumerate(([_box(8, 10, 32, 30)], {"counts": runs, "size": [64, 96]})):
            key = 10 * number + thing
            annotations.append({"id": key, "image_id": number, "category_id": 1, "segmentation": outline})
            words = (["The red one", "left"], ["blue one", "right", "lower right"])[thing]
            said = [{"raw": word, "sent": word.lower(), "sent_id": 10 * key + i} for i, word in enumerate(words)]
            split = ("train", "val", "testA", "testB")[number // 2]
            refs.append({"ref_id": key, "ann_id": key, "image_id": number, "split": split, "sentences": said})
    for name, author in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        (root / name).mkdir()
        mine = refs if name != "refcocog" else [r | {"split": r["split"].replace("testA", "test")} for r in refs]
        (root / name / f"refs({author}).p").write_bytes(pickle.dumps(mine, 2))
        (root / name / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


FRAMES = (
    *(("sync/kitchen_0028b", 0), ("sync/kitchen_0028b", 1), ("sync/office_0003", 0), ("sync/office_0003", 7)),
    ("official_splits/test/bathroom", 45),
)


@pytest.fixture(scope="session")
def nyu_folder(tmp_path_factory):
    """The BTS layout with pictures of 80 x 60: four training frames of two rooms, one test frame of a third."""
    root = tmp_path_factory.mktemp("nyu")
    lines = []
    for place, number in FRAMES:
        (root / place).mkdir(parents=True, exist_ok=True)
        depth = np.linspace(500 + 100 * number, 8000, 60 * 80).reshape(60, 80).astype(np.uint16)
        depth[:5] = 0
        grey = (depth / 40).astype(np.uint8)
        Image.fromarray(np.stack([grey, 255 - grey, grey], -1)).save(root / place / f"rgb_{number:05d}.jpg")
        Image.fromarray(depth).save(root / place / f"sync_depth_{number:05d}.png")
        if place.startswith("sync"):
            stem = place.removeprefix("sync")
            lines.append(f"{stem}/rgb_{number:05d}.jpg {stem}/sync_depth_{number:05d}.png 518.8579")
    (root / "nyudepthv2_train_files_with_gt.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def generated_folder(tmp_path):
    """What `perception generate` leaves behind: four samples of 64 x 64 pixels, and a failed one."""
    root = tmp_path / "generated"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    lines = []
    for number in range(4):
        labels = np.random.default_rng(number).integers(0, 19, (4, 4)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        labels[:2] = 255
        places = [f"images/town_{number}.png", f"labels/town_{number}_labelTrainIds.png"]
        Image.fromarray(np.stack([labels * 10] * 3, -1)).save(root / places[0])
        Image.fromarray(labels).save(root / places[1])
        lines.append({"id": f"town_{number}", "status": "done", "output": places})
    lines.append({"id": "town_4", "status": "failed", "output": [], "reason": "a damaged map"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "job.json").write_text(json.dumps({"options": {"classes": CLASSES}}))
    (root / "samples.txt").write_text("".join(f"town_{number}\n" for number in range(4)))
    (root / "README.md").write_text("# Generated street scenes\n")
    return root


@pytest.fixture
def unformatted_configs(monkeypatch):
    """mmengine dumps a config at every checkpoint, pretty-printed by yapf in seconds; here as it is."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **style: (text, True))
