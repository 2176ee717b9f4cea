"""A tiny CamVid-like folder and the overrides that make the shipped CamVid config train on it in seconds."""

import numpy as np
import pytest
from PIL import Image

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
