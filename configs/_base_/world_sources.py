"""The segmentor of the miniature world's domain generalisation: 1,000 clear-day scenes of 128 x 128, 1,000 iterations.

ResNet-18 from scratch with an FPN head; batches of 16, which `MixedSampler` draws. The configs that stand on it differ
in nothing but the training data. Scenes are rendered when first asked for and kept in runs/world.
"""

from mmcv.transforms import RandomFlip
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import IterBasedTrainLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.mixing import MixedSampler, MixedSources
from perception.training.data.records import ReadRecord
from perception.training.source_counts import ChannelsLast

with read_base():
    from .adamw import *
    from .fpn import *
    from .resnet18 import *
    from .runtime import *
    from .world import *

model["backbone"] = resnet18
model["neck"].update({"num_outs": 4})
model["decode_head"].update({"in_index": [0, 1, 2, 3]})

_source = {
    **train_dataloader["dataset"]["dataset"],
    "count": 1000,
    "pipeline": [{"type": ReadRecord}, {"type": RandomFlip, "prob": 0.5}, {"type": PackSegInputs}],
}
train_dataloader["num_workers"] = 1
train_dataloader["sampler"] = {"type": MixedSampler}
train_dataloader["dataset"] = {"type": MixedSources, "datasets": [_source], "names": ["clear"], "shares": None}
val_dataloader.update({"num_workers": 1})
val_dataloader["dataset"].update({"count": 100})
test_dataloader.update({"num_workers": 1})

train_cfg = {"type": IterBasedTrainLoop, "max_iters": 1000, "val_interval": 1000}
param_scheduler = [
    {"type": LinearLR, "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 50},
    {"type": CosineAnnealingLR, "eta_min": 1e-5, "by_epoch": False, "begin": 50, "end": 1000, "T_max": 950},
]
default_hooks["logger"].update({"interval": 50, "log_metric_by_epoch": False})
default_hooks["checkpoint"].update({"by_epoch": False, "interval": 500})
log_processor.update({"by_epoch": False, "window_size": 50})
custom_hooks = [{"type": ChannelsLast}]
