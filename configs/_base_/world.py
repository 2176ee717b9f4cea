"""Street scenes of the miniature world at 128 x 128: 2,000 for training, 200 held-out ones; 19 Cityscapes classes.

Scenes are rendered when first asked for and kept in runs/world. Validation and test use other seeds than training.
"""

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import FixedViews, WorldScenes
from perception.training.data.transforms import FlipOddViews, RenderScene
from perception.training.metrics import SegmentationIoU

_render = {"type": RenderScene, "cache": "runs/world"}
_train = [_render, {"type": FlipOddViews}, {"type": PackSegInputs}]
_test = [_render, {"type": PackSegInputs}]

train_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 1,
        "dataset": {"type": WorldScenes, "split": "train", "count": 2000, "domain": "clear", "pipeline": _train},
    },
}
val_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": WorldScenes,
        "split": "val",
        "count": 200,
        "domain": "clear",
        "pipeline": _test,
        "test_mode": True,
    },
}
test_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": WorldScenes,
        "split": "test",
        "count": 200,
        "domain": "clear",
        "pipeline": _test,
        "test_mode": True,
    },
}
val_evaluator = {"type": SegmentationIoU}
test_evaluator = {"type": SegmentationIoU}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 8, "val_interval": 4}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
