"""VPD (Zhao et al. 2023) as published for semantic segmentation: Stable Diffusion 1.5, its denoiser fine-tuned.

Model, optimiser, schedule and crops of the reference; a config adds data, classes and runtime. The clean latent is not
scaled (`latent_scale` 1.0), each class is told as "a photo of a {}" through a text adapter, FPN and head have 256
channels, the loss is averaged over ignored pixels too, and tests slide windows of 512 x 512. The norms of the head are
shared between processes (`sync_bn`). AdamW at 8e-5, the denoiser at a tenth of it save for its transformer norms
(`optim_wrapper.paramwise_cfg.quirks=False` slows down all of it); 1,500 iterations of warm-up on top of a linear decay
to zero.
"""

from mmcv.transforms import RandomFlip
from mmengine.config import read_base
from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmseg.datasets import PackSegInputs, PhotoMetricDistortion, RandomCrop
from perception.training.param_groups import VPDParamGroups
from torch.optim import AdamW

with read_base():
    from .vpd import *

_window = (512, 512)

model["data_preprocessor"].update(
    {
        "size": _window,  # crops and images smaller than a window are padded
        "size_divisor": None,
        "pad_val": 0.5,  # grey, as RGB in [0, 1]
    }
)
model["data_preprocessor"]["test_cfg"] = {"size": _window}
model["backbone"].update(
    {
        "name": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "adapter": True,
        "latent_scale": 1.0,
        "train": "denoiser",
        "checkpointing": True,  # less memory for a third more time, as the reference; changes no result
        "standardize": False,
        "store": None,  # random crops do not come back
    }
)
model["neck"].update({"out_channels": 256, "norm_cfg": None})
model["decode_head"].update({"channels": 256})
model["decode_head"]["loss_decode"].update({"avg_non_ignore": False})
model["test_cfg"] = {"mode": "slide", "crop_size": _window, "stride": (341, 341)}
sync_bn = "torch"

random_crops = [  # behind reading and a random scale; other ones in every epoch
    {"type": RandomCrop, "crop_size": _window, "cat_max_ratio": 0.75},
    {"type": RandomFlip, "prob": 0.5},
    {"type": PhotoMetricDistortion},
    {"type": PackSegInputs},
]

optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 8e-5, "weight_decay": 1e-3},
    "constructor": VPDParamGroups,
    "paramwise_cfg": {"rule": "vpd-seg"},
}
param_scheduler = [
    {"type": LinearLR, "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": 1501},
    {"type": PolyLR, "eta_min": 0.0, "power": 1.0, "by_epoch": False, "begin": 0},
]
