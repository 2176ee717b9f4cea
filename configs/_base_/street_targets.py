"""Validation on Cityscapes, tests on any of five real sets: `test_dataloader.dataset.domain` is one of cityscapes,
bdd100k, mapillary, acdc and dark_zurich, or all of them with tools/evaluate_domains.py.

Images are fitted into 1024 x 512 (ACDC and Dark Zurich: 960 x 540) and predictions compared at the original size.
Data: PERCEPTION_CITYSCAPES, PERCEPTION_BDD100K, PERCEPTION_MAPILLARY, PERCEPTION_ACDC, PERCEPTION_DARK_ZURICH, or
data/<name>; `perception.data.street_sets` has the layouts, those of the archives (Mapillary: v1.2).
"""

from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.records import StreetScenes
from perception.training.data.transforms import FitTestScale, ReadImage, ReadLabels
from perception.training.metrics import SegmentationIoU

with read_base():
    from .loaders import *

_test = [
    {"type": ReadImage},
    {"type": FitTestScale},
    {"type": ReadLabels, "num_classes": 19},
    {"type": PackSegInputs},
]
val_dataloader["dataset"] = {
    "type": StreetScenes,
    "domain": "cityscapes",
    "split": "val",
    "pipeline": _test,
    "test_mode": True,
}
test_dataloader = val_dataloader
val_evaluator = test_evaluator = {"type": SegmentationIoU}
