"""Depth of street scenes of the miniature world at 128 x 128: 2,000 for training, 200 held-out ones; up to 90 metres.

Scenes are rendered when first asked for and kept in runs/world. The sky has no depth and counts nowhere.
"""

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.prompted_datasets import WorldDepth
from perception.training.data.prompted_transforms import RenderDepth
from perception.training.data.transforms import FlipOddViews
from perception.training.metrics import DepthErrors

_render = {"type": RenderDepth, "cache": "runs/world"}
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
        "dataset": {"type": WorldDepth, "split": "train", "count": 2000, "domain": "clear", "pipeline": _train},
    },
}
val_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": WorldDepth,
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
        "type": WorldDepth,
        "split": "test",
        "count": 200,
        "domain": "clear",
        "pipeline": _test,
        "test_mode": True,
    },
}
val_evaluator = {"type": DepthErrors, "max_depth": 100.0}
test_evaluator = {"type": DepthErrors, "max_depth": 100.0}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 8, "val_interval": 4}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
