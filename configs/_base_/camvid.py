"""CamVid at 256 x 320, evaluated at the original 360 x 480; `train_dataloader.dataset.views=2` adds mirror images.

Data: PERCEPTION_CAMVID, --data-root, or data/camvid, in it images/<split>/<stem>.jpg and
annotations/<split>/<stem>.png (0..10, 255 = ignore) for train, val and test; configs/README.md says where to get them.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.records import CamVid
from perception.training.data.transforms import FlipOddViews, ReadImage, ReadLabels
from perception.training.data.views import FixedViews
from perception.training.metrics import SegmentationIoU

with read_base():
    from .loaders import *

_root = getenv("PERCEPTION_CAMVID", "data/camvid")
_camvid = {"type": CamVid, "data_root": _root}
_resize = {"type": Resize, "scale": (320, 256), "keep_ratio": False}  # width, height
_labels = {"type": ReadLabels, "num_classes": 11}
_pack = {"type": PackSegInputs}
_train = [{"type": ReadImage}, _labels, _resize, {"type": FlipOddViews}, _pack]
_test = [{"type": ReadImage}, _resize, _labels, _pack]  # labels behind the resizing: evaluated at the original size

_held_out = {**_camvid, "pipeline": _test, "test_mode": True}

train_dataloader.update({"batch_size": 8, "num_workers": 1})
train_dataloader["dataset"] = {
    "type": FixedViews,
    "views": 1,
    "dataset": {**_camvid, "split": "train", "pipeline": _train},
}
val_dataloader.update({"batch_size": 8, "num_workers": 1, "dataset": {**_held_out, "split": "val"}})
test_dataloader.update({"batch_size": 8, "num_workers": 1, "dataset": {**_held_out, "split": "test"}})
val_evaluator = test_evaluator = {"type": SegmentationIoU}
train_cfg.update({"max_epochs": 10, "val_interval": 5})
