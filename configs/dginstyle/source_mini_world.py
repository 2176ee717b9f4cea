"""Stage A of DGInStyle (ECCV 2024) on `mini`: its denoiser learns the miniature world's clear days, without a prompt.

    python tools/train.py configs/dginstyle/source_mini_world.py --amp

runs/source_mini_world/model is then the source-style denoiser that control_mini_world.py starts from, and
runs/source_mini_world/samples show what it makes. `val_loss` (held-out scenes, the same noise at every validation) must
fall. From the third epoch on no VAE runs.
"""

from mmengine.config import read_base
from perception.training.models.generators import SourceGenerator

with read_base():
    from .._base_.generator_world import *

model.update({"type": SourceGenerator, "snr_bounds": [0.25, 5.0]})  # else it never learns how bright its days are
optim_wrapper["optimizer"]["lr"] = 1e-4
train_cfg.update({"max_epochs": 4, "val_interval": 2})
