"""Street scenes of the miniature world at 128 x 128: 2,000 for training, 200 held-out ones; 19 Cityscapes classes.

Scenes are rendered when first asked for and kept in runs/world. Validation and test use other seeds than training.
"""

from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.records import ReadRecord, WorldScenes
from perception.training.data.transforms import FlipOddViews
from perception.training.data.views import FixedViews
from perception.training.metrics import SegmentationIoU

with read_base():
    from .loaders import *

_train = [{"type": ReadRecord}, {"type": FlipOddViews}, {"type": PackSegInputs}]
_test = [{"type": ReadRecord}, {"type": PackSegInputs}]
_scenes = {"domain": "clear", "cache": "runs/world"}
_held_out = {"count": 200, **_scenes, "pipeline": _test, "test_mode": True}

train_dataloader.update({"num_workers": 2})
train_dataloader["dataset"] = {
    "type": FixedViews,
    "views": 1,
    "dataset": {"type": WorldScenes, "split": "train", "count": 2000, **_scenes, "pipeline": _train},
}
val_dataloader.update({"batch_size": 16, "num_workers": 2})
val_dataloader["dataset"] = {"type": WorldScenes, "split": "val", **_held_out}
test_dataloader.update({"batch_size": 16, "num_workers": 2})
test_dataloader["dataset"] = {"type": WorldScenes, "split": "test", **_held_out}
val_evaluator = test_evaluator = {"type": SegmentationIoU}
