"""Semantic segmentation by crops, counted in iterations; `ade20k` and `cityscapes` add their files."""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler
from mmengine.runner import IterBasedTrainLoop
from perception.training.data.views import FixedViews
from perception.training.metrics import SegmentationIoU

with read_base():
    from .loaders import *

train_dataloader["sampler"] = {"type": InfiniteSampler, "shuffle": True}
train_dataloader["dataset"] = {"type": FixedViews}
val_evaluator = test_evaluator = {"type": SegmentationIoU}
train_cfg = {"type": IterBasedTrainLoop, "max_iters": 40000, "val_interval": 4000}
