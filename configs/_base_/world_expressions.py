"""Referring expressions of the miniature world at 128 x 128: 2,000 scenes for training, two of their sentences each
(`views`); every sentence of 50 scenes for validation and of 200 for the test, about ten per scene.

Scenes are rendered when first asked for and kept in runs/world.
"""

from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.records import ReadRecord, WorldExpressions
from perception.training.metrics import ReferringIoU

with read_base():
    from .world import *

_pipeline = [
    {"type": ReadRecord},
    {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "sentence", "name"]},
]
for _owner in (train_dataloader["dataset"], val_dataloader, test_dataloader):
    _owner["dataset"].update({"type": WorldExpressions, "pipeline": _pipeline})
train_dataloader["dataset"]["views"] = 2
val_dataloader["dataset"].update({"count": 50, "every": True})
test_dataloader["dataset"].update({"every": True})
val_evaluator = test_evaluator = {"type": ReferringIoU}
