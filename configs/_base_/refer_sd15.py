"""VPD's referring network on a fine-tuned Stable Diffusion 1.5, with the reference's optimizer and schedule.

The images are squashed to one size, so each is encoded once and its latent kept in `runs/store` (32 KB; `model.store`).
"""

from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from perception.segmentation.referring import ReferringNet
from perception.training.models.tasks import ReferringSegmentor
from perception.training.param_groups import PolyDecayLR, VPDParamGroups
from torch.optim import AdamW

with read_base():
    from .rgb01 import *
    from .runtime import *

model = {
    "type": ReferringSegmentor,
    "data_preprocessor": {**rgb01, "size_divisor": 1},
    "network": {
        "type": ReferringNet,
        "backbone": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "length": 40,
        "truncate": True,
        "adapter": True,
        "latent_scale": 1.0,  # the VAE's raw mean, as the reference feeds it
        "map_strides": [16, 32],
        "train": "denoiser",
        "checkpointing": True,
        "hidden": 640,
    },
    "weights": [0.9, 1.1],
    "store": "runs/store",
}
optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 5e-5, "weight_decay": 1e-2},
    "constructor": VPDParamGroups,
    "paramwise_cfg": {"rule": "vpd-refer", "unet_lr_scale": 1.0},  # the released code; 0.01: its written intent
}
param_scheduler = [{"type": PolyDecayLR, "power": 0.9, "by_epoch": True, "convert_to_iter_based": True}]
default_hooks["checkpoint"].update({"save_best": "oIoU"})
sync_bn = "torch"
