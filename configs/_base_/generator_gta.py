"""Both stages of the style swap on Stable Diffusion 1.5 with GTA 5 frames, counted in iterations (not in steps).

Data: PERCEPTION_GTA, --data-root, or data/gta, in it images/<stem>.png and labels/<stem>_labelTrainIds.png (Cityscapes
train ids; `gta_train_ids` of perception.data.street_sets converts). 24,966 frames of 1914 x 1052, the last 200 held
out. Research use.
"""

from os import getenv

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.generator_data import SourceCrops
from perception.training.data.views import EpochViews, FixedViews
from perception.training.generator_pictures import SamplePictures
from perception.training.metrics import DenoisingLoss
from torch.optim import AdamW

with read_base():
    from .rgb01 import *
    from .runtime import *

_crops = {
    "type": SourceCrops,
    "data_root": getenv("PERCEPTION_GTA", "data/gta"),
    "held_out": 200,
    "size": [512, 512],
    "pipeline": [{"type": PackSegInputs}],
}
model = {
    "backbone": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "timesteps": "uniform",
    "posterior": "sample",
    "checkpointing": True,
    "data_licence": "GTA 5 frames (Richter et al. 2016): research use only",
    "data_preprocessor": {**rgb01, "size_divisor": 64, "test_cfg": {"size_divisor": 64}},
}
train_dataloader = {
    "batch_size": 1,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": EpochViews},  # other crops in every epoch, as long as there are views
    "dataset": {"type": FixedViews, "views": 3, "dataset": {**_crops, "part": "train"}},
}
val_dataloader = {
    "batch_size": 2,
    "num_workers": 2,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {**_crops, "part": "val", "test_mode": True},
}
val_evaluator = {"type": DenoisingLoss}
val_cfg = {"type": ValLoop}
optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 2e-6, "betas": [0.9, 0.999], "weight_decay": 1e-2, "eps": 1e-8},
    "clip_grad": {"max_norm": 1.0},
    "accumulative_counts": 2,
}
train_cfg = {"type": IterBasedTrainLoop, "max_iters": 60000, "val_interval": 2000}
default_hooks["logger"].update({"interval": 50, "log_metric_by_epoch": False})
default_hooks["checkpoint"].update({"by_epoch": False, "interval": 2000, "save_best": "val_loss", "rule": "less"})
log_processor.update({"by_epoch": False, "window_size": 50})
custom_hooks = [{"type": SamplePictures, "count": 4}]
