"""Cityscapes at 512: two fixed random crops of 512 x 512 per image for training, 512 x 1024 for evaluation.

Data: PERCEPTION_CITYSCAPES, --data-root, or data/cityscapes, in it leftImg8bit/{train,val} and
gtFine/{train,val} with the *_gtFine_labelTrainIds.png files that cityscapesScripts writes.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmseg.datasets import CityscapesDataset, PackSegInputs
from perception.training.data.transforms import FixedCrop, ReadImage, ReadLabels

with read_base():
    from .crops import *

_files = {"type": CityscapesDataset, "data_root": getenv("PERCEPTION_CITYSCAPES", "data/cityscapes")}
_labels = {"type": ReadLabels, "num_classes": 19}
_crop = {"type": FixedCrop, "size": (512, 512), "scale": (1.0, 2.0)}
_train = [{"type": ReadImage}, _labels, _crop, {"type": PackSegInputs}]
_resize = {"type": Resize, "scale": (1024, 512), "keep_ratio": False}
_test = [{"type": ReadImage}, _resize, _labels, {"type": PackSegInputs}]

_train_files = {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"}
_val_files = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}

train_dataloader["dataset"]["views"] = 2
train_dataloader["dataset"]["dataset"] = {**_files, "data_prefix": _train_files, "pipeline": _train}
val_dataloader["batch_size"] = 2
val_dataloader["dataset"] = {**_files, "data_prefix": _val_files, "pipeline": _test}
test_dataloader = val_dataloader
train_cfg.update({"max_iters": 20000, "val_interval": 2000})
