"""CamVid at 256 x 320, evaluated at the original 360 x 480; `train_dataloader.dataset.views=2` adds mirror images.

Data: PERCEPTION_CAMVID, --data-root, or data/camvid, in it images/<split>/<stem>.jpg and
annotations/<split>/<stem>.png (0..10, 255 = ignore) for train, val and test; configs/README.md says where to get them.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import CamVid, FixedViews
from perception.training.data.transforms import FlipOddViews, ReadImage, ReadLabels
from perception.training.metrics import SegmentationIoU

_root = getenv("PERCEPTION_CAMVID", "data/camvid")
_resize = {"type": Resize, "scale": (320, 256), "keep_ratio": False}  # width, height
_labels = {"type": ReadLabels, "num_classes": 11}
_pack = {"type": PackSegInputs}
_train = [{"type": ReadImage}, _labels, _resize, {"type": FlipOddViews}, _pack]
_test = [{"type": ReadImage}, _resize, _labels, _pack]  # labels behind the resizing: evaluated at the original size

train_dataloader = {
    "batch_size": 8,
    "num_workers": 1,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 1,
        "dataset": {"type": CamVid, "data_root": _root, "split": "train", "pipeline": _train},
    },
}
val_dataloader = {
    "batch_size": 8,
    "num_workers": 1,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {"type": CamVid, "data_root": _root, "split": "val", "pipeline": _test, "test_mode": True},
}
test_dataloader = {
    "batch_size": 8,
    "num_workers": 1,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {"type": CamVid, "data_root": _root, "split": "test", "pipeline": _test, "test_mode": True},
}
val_evaluator = {"type": SegmentationIoU}
test_evaluator = {"type": SegmentationIoU}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 10, "val_interval": 5}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
