"""NYU Depth v2: crops of 480 x 480 for training, augmented anew in every epoch; 480 x 640 for evaluation.

Data: PERCEPTION_NYU, --data-root, or data/nyu, in it sync/ (24,231 training frames) and official_splits/test/ (654);
configs/README.md says where to get them. What counts: 1 mm to 10 m inside Eigen's crop.
"""

from os import getenv

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.prompted_datasets import NYUDepth
from perception.training.data.prompted_transforms import CutDepth, DepthAugmentation, ReadDepth
from perception.training.data.samplers import EpochViews
from perception.training.metrics import DepthErrors

_root = getenv("PERCEPTION_NYU", "data/nyu")
_pack = {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "given", "name"]}
_train = [{"type": ReadDepth}, {"type": CutDepth}, {"type": DepthAugmentation, "size": (480, 480)}, _pack]
_test = [{"type": ReadDepth}, _pack]

train_dataloader = {
    "batch_size": 3,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": EpochViews, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 25,
        "dataset": {
            "type": NYUDepth,
            "data_root": _root,
            "folder": "sync",
            "file_list": "nyudepthv2_train_files_with_gt.txt",
            "pipeline": _train,
        },
    },
}
val_dataloader = {
    "batch_size": 1,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": NYUDepth,
        "data_root": _root,
        "folder": "official_splits/test",
        "pipeline": _test,
        "test_mode": True,
    },
}
test_dataloader = val_dataloader
val_evaluator = {"type": DepthErrors, "max_depth": 10.0, "crop": (45, 471, 41, 601)}
test_evaluator = val_evaluator
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 25, "val_interval": 1}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
