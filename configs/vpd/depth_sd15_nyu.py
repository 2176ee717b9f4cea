"""VPD's depth network, Stable Diffusion 1.5 fine-tuned, NYU Depth v2, told the room; crops of 480 x 480.

    python tools/train.py configs/vpd/depth_sd15_nyu.py --data-root data/nyu
    torchrun --nproc-per-node 8 tools/train.py configs/vpd/depth_sd15_nyu.py    # batch 8 x 3 as published
    python tools/test.py configs/vpd/depth_sd15_nyu.py runs/depth_sd15_nyu/model --show-dir runs/pictures

One GPU: add `--cfg-options optim_wrapper.accumulative_counts=8`. The frozen denoiser, this toolkit's default; 24,231
images x 2 views are 230 GB of stored features:

    python tools/train.py configs/vpd/depth_sd15_nyu.py --work-dir runs/depth_sd15_nyu_frozen --cfg-options \
        model.network.train=head model.network.adapter=False model.store=runs/store train_dataloader.dataset.views=2

Must reach on the 654 test images: RMSE 0.254, d1 0.964, abs_rel 0.069, log10 0.030 (published). Cost: 5 TFLOP per image
and step, 24,231 per epoch, 25 epochs. Needs a GPU; fine-tuning takes 14 GB for weights, gradients and AdamW, and the
activations of 3 images. Other photographs:
`perception depth --model FOLDER --size 480x640 --windows 2 --flip`, with or without --room.
"""

from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from perception.depth import DepthNet
from perception.training.models.tasks import DepthEstimator
from perception.training.param_groups import RiseAndFallLR, VPDParamGroups
from torch.optim import AdamW

with read_base():
    from .._base_.nyu import *
    from .._base_.rgb01 import *
    from .._base_.runtime import *

model = {
    "type": DepthEstimator,
    "data_preprocessor": {**rgb01, "size_divisor": 1, "seg_pad_val": 0},  # no measurement
    "network": {
        "type": DepthNet,
        "backbone": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "conditioning": "class_id",  # the 27 rooms
        "templates": "imagenet",
        "length": 20,
        "adapter": True,
        "latent_scale": 1.0,  # the VAE's raw mean, as the reference feeds it
        "train": "denoiser",
        "checkpointing": True,
        "max_depth": 10.0,
        "fusion_channels": 1536,
        "num_filters": [32, 32, 32],
        "decoder_channels": 192,
    },
    "reduction": "batch",
    "windows": 2,
    "flip": True,
    "store": None,
}
optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 5e-4, "weight_decay": 0.1},
    "constructor": VPDParamGroups,
    "paramwise_cfg": {"rule": "vpd-depth", "unet_lr_scale": 0.01},
}
param_scheduler = [
    {"type": RiseAndFallLR, "floor": 0.06, "power": 0.9, "by_epoch": True, "convert_to_iter_based": True}
]
default_hooks["checkpoint"].update({"save_best": "rmse", "rule": "less"})
sync_bn = "torch"
