"""Both stages of the style swap on the miniature world: clear-day scenes of 128 x 128 and their mirror images.

Every epoch shows one version of the 2,000 scenes; their latents are computed in the first two epochs and read from
then on.
"""

from mmengine.config import read_base
from perception.training.data.views import EpochViews
from perception.training.generator_pictures import SamplePictures
from perception.training.metrics import DenoisingLoss

with read_base():
    from .adamw import *
    from .rgb01 import *
    from .runtime import *
    from .world import *

model = {
    "backbone": "mini",
    "timesteps": "stratified",
    "store": "runs/store",
    "data_licence": "Apache-2.0 (the miniature world, part of perception)",
    "data_preprocessor": {**rgb01, "size_divisor": 64, "test_cfg": {"size_divisor": 64}},
}
train_dataloader["num_workers"] = 1
train_dataloader["sampler"] = {"type": EpochViews}
train_dataloader["dataset"]["views"] = 2
val_dataloader["num_workers"] = 1
val_dataloader["dataset"]["count"] = 100
test_dataloader = test_evaluator = test_cfg = None  # generators are validated by their loss alone
val_evaluator = {"type": DenoisingLoss}
optim_wrapper["clip_grad"]["max_norm"] = 1.0
default_hooks["checkpoint"].update({"save_best": "val_loss", "rule": "less"})
custom_hooks = [{"type": SamplePictures, "count": 4, "guidance_scale": 4.0}]
