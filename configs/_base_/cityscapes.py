"""Cityscapes at 512: two fixed random crops of 512 x 512 per image for training, 512 x 1024 for evaluation.

Data: PERCEPTION_CITYSCAPES, --data-root, or data/cityscapes, in it leftImg8bit/{train,val} and
gtFine/{train,val} with the *_gtFine_labelTrainIds.png files that cityscapesScripts writes.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import CityscapesDataset, PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.transforms import FixedCrop, ReadImage, ReadLabels
from perception.training.metrics import SegmentationIoU

_root = getenv("PERCEPTION_CITYSCAPES", "data/cityscapes")
_labels = {"type": ReadLabels, "num_classes": 19}
_crop = {"type": FixedCrop, "size": (512, 512), "scale": (1.0, 2.0)}
_train = [{"type": ReadImage}, _labels, _crop, {"type": PackSegInputs}]
_resize = {"type": Resize, "scale": (1024, 512), "keep_ratio": False}
_test = [{"type": ReadImage}, _resize, _labels, {"type": PackSegInputs}]

train_dataloader = {
    "batch_size": 16,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": InfiniteSampler, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 2,
        "dataset": {
            "type": CityscapesDataset,
            "data_root": _root,
            "data_prefix": {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"},
            "pipeline": _train,
        },
    },
}
val_dataloader = {
    "batch_size": 2,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": CityscapesDataset,
        "data_root": _root,
        "data_prefix": {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"},
        "pipeline": _test,
    },
}
test_dataloader = val_dataloader
val_evaluator = {"type": SegmentationIoU}
test_evaluator = {"type": SegmentationIoU}
train_cfg = {"type": IterBasedTrainLoop, "max_iters": 20000, "val_interval": 2000}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
