"""ADE20K (SceneParse150) at 512: one fixed random crop per image for training, sliding windows for evaluation.

Data: PERCEPTION_ADE20K, --data-root, or data/ade/ADEChallengeData2016, in it images/{training,validation} and
annotations/{training,validation} as the challenge archive has them.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmseg.datasets import ADE20KDataset, PackSegInputs
from perception.training.data.transforms import FixedCrop, ReadImage, ReadLabels

with read_base():
    from .crops import *

_files = {"type": ADE20KDataset, "data_root": getenv("PERCEPTION_ADE20K", "data/ade/ADEChallengeData2016")}
_labels = {"type": ReadLabels, "num_classes": 150}
_train = [{"type": ReadImage}, _labels, {"type": FixedCrop, "size": (512, 512)}, {"type": PackSegInputs}]
_resize = {"type": Resize, "scale": (2048, 512), "keep_ratio": True}
_test = [{"type": ReadImage}, _resize, _labels, {"type": PackSegInputs}]

_train_files = {"img_path": "images/training", "seg_map_path": "annotations/training"}
_val_files = {"img_path": "images/validation", "seg_map_path": "annotations/validation"}

train_dataloader["dataset"]["views"] = 1
train_dataloader["dataset"]["dataset"] = {**_files, "data_prefix": _train_files, "pipeline": _train}
val_dataloader["dataset"] = {**_files, "data_prefix": _val_files, "pipeline": _test}
test_dataloader = val_dataloader
