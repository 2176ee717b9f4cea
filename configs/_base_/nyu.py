"""NYU Depth v2: crops of 480 x 480 for training, augmented anew in every epoch; 480 x 640 for evaluation.

Data: PERCEPTION_NYU, --data-root, or data/nyu, in it sync/ (24,231 training frames) and official_splits/test/ (654);
configs/README.md says where to get them. What counts: 1 mm to 10 m inside Eigen's crop.
"""

from os import getenv

from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.augment import CutDepth, DepthAugmentation
from perception.training.data.records import NYUDepth, ReadRecord
from perception.training.data.views import EpochViews, FixedViews
from perception.training.metrics import DepthErrors

with read_base():
    from .loaders import *

_nyu = {"type": NYUDepth, "data_root": getenv("PERCEPTION_NYU", "data/nyu")}
_pack = {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "given", "name"]}
_train = [{"type": ReadRecord}, {"type": CutDepth}, {"type": DepthAugmentation, "size": (480, 480)}, _pack]
_test = [{"type": ReadRecord}, _pack]
_frames = {**_nyu, "folder": "sync", "file_list": "nyudepthv2_train_files_with_gt.txt", "pipeline": _train}

train_dataloader.update({"batch_size": 3, "sampler": {"type": EpochViews, "shuffle": True}})
train_dataloader["dataset"] = {"type": FixedViews, "views": 25, "dataset": _frames}
val_dataloader["dataset"] = {**_nyu, "folder": "official_splits/test", "pipeline": _test, "test_mode": True}
test_dataloader = val_dataloader
val_evaluator = test_evaluator = {"type": DepthErrors, "max_depth": 10.0, "crop": (45, 471, 41, 601)}
train_cfg.update({"max_epochs": 25, "val_interval": 1})
