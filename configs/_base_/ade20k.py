"""ADE20K (SceneParse150) at 512: one fixed random crop per image for training, sliding windows for evaluation.

Data: PERCEPTION_ADE20K, --data-root, or data/ade/ADEChallengeData2016, in it images/{training,validation} and
annotations/{training,validation} as the challenge archive has them.
"""

from os import getenv

from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import ADE20KDataset, PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.transforms import FixedCrop, ReadImage, ReadLabels
from perception.training.metrics import SegmentationIoU

_root = getenv("PERCEPTION_ADE20K", "data/ade/ADEChallengeData2016")
_labels = {"type": ReadLabels, "num_classes": 150}
_train = [{"type": ReadImage}, _labels, {"type": FixedCrop, "size": (512, 512)}, {"type": PackSegInputs}]
_resize = {"type": Resize, "scale": (2048, 512), "keep_ratio": True}
_test = [{"type": ReadImage}, _resize, _labels, {"type": PackSegInputs}]

train_dataloader = {
    "batch_size": 16,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": InfiniteSampler, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 1,
        "dataset": {
            "type": ADE20KDataset,
            "data_root": _root,
            "data_prefix": {"img_path": "images/training", "seg_map_path": "annotations/training"},
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
        "type": ADE20KDataset,
        "data_root": _root,
        "data_prefix": {"img_path": "images/validation", "seg_map_path": "annotations/validation"},
        "pipeline": _test,
    },
}
test_dataloader = val_dataloader
val_evaluator = {"type": SegmentationIoU}
test_evaluator = {"type": SegmentationIoU}
train_cfg = {"type": IterBasedTrainLoop, "max_iters": 40000, "val_interval": 4000}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
