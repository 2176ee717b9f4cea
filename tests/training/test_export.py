"""The sizes that an exported head remembers, from the pictures it was trained and validated on."""

import json
import logging
from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict

from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.export.best import export_best
from perception.training.export.mmseg_model import SegmentationModel
from perception.training.registry import DATASETS, MODELS

CONFIG = "configs/fpn/fpn_mini_camvid.py"


@pytest.fixture
def export(camvid_folder, small, tmp_path):
    """Function (options, test_cfg) -> folder of an untrained head, exported as a training does that ends."""

    def run(*options, test_cfg=None):
        config = load_config(CONFIG, Overrides([*small, *options], str(camvid_folder), str(tmp_path)))
        config.model.test_cfg = test_cfg or config.model.test_cfg
        complete_model(config)
        train, val = (
            SimpleNamespace(dataset=DATASETS.build(config[f"{mode}_dataloader"].dataset.to_dict()))
            for mode in ("train", "val")
        )
        runner = SimpleNamespace(
            model=MODELS.build(ConfigDict(config.model)),
            message_hub=SimpleNamespace(runtime_info={}),
            train_dataloader=train,
            val_dataloader=val,
            val_loop=val,
            logger=logging.getLogger(__name__),
        )
        export_best(runner, config)
        return tmp_path / "model"

    return run


def test_image_size_is_that_of_the_padded_pictures(export):
    folder = export("train_dataloader.dataset.dataset.pipeline.2.scale=(90,48)")  # width, height
    assert json.loads((folder / "config.json").read_text())["image_size"] == [64, 128]


def test_sliding_heads_remember_how_large_the_tested_pictures_are(export):
    slide = {"mode": "slide", "crop_size": (64, 64), "stride": (64, 64)}
    folder = export("val_dataloader.dataset.pipeline.1.scale=(192,128)", test_cfg=slide)
    model = SegmentationModel.from_pretrained(folder)
    assert (model.image_size, model.tested_side) == (None, 128)
    config = json.loads((folder / "config.json").read_text())
    del config["tested_side"]
    assert SegmentationModel(**config).tested_side == 64
