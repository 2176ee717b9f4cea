"""Referring expressions of the miniature world at 128 x 128: 2,000 scenes for training, two of their sentences each
(`views`); every sentence of 50 scenes for validation and of 200 for the test, about ten per scene.

Scenes are rendered when first asked for and kept in runs/world.
"""

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.prompted_datasets import WorldExpressions
from perception.training.data.prompted_transforms import RenderExpression
from perception.training.metrics import ReferringIoU

_cache = "runs/world"
_pipeline = [
    {"type": RenderExpression, "cache": _cache},
    {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "sentence", "name"]},
]

train_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 2,
        "dataset": {
            "type": WorldExpressions,
            "split": "train",
            "count": 2000,
            "domain": "clear",
            "pipeline": _pipeline,
        },
    },
}
val_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": WorldExpressions,
        "split": "val",
        "count": 50,
        "domain": "clear",
        "every": True,
        "cache": _cache,
        "pipeline": _pipeline,
        "test_mode": True,
    },
}
test_dataloader = {
    "batch_size": 16,
    "num_workers": 2,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": WorldExpressions,
        "split": "test",
        "count": 200,
        "domain": "clear",
        "every": True,
        "cache": _cache,
        "pipeline": _pipeline,
        "test_mode": True,
    },
}
val_evaluator = {"type": ReferringIoU}
test_evaluator = {"type": ReferringIoU}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 8, "val_interval": 4}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
