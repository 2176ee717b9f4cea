"""FPN head of 256 channels on the frozen Stable Diffusion 1.5, ADE20K (150 classes) at 512.

    python tools/train.py configs/fpn/fpn_sd15_ade20k.py --data-root data/ade/ADEChallengeData2016
    torchrun --nproc-per-node 8 tools/train.py configs/fpn/fpn_sd15_ade20k.py \
        --cfg-options train_dataloader.batch_size=2

Target: not measured yet; for orientation, VPD fine-tunes the whole UNet to 53.7 mIoU. Cost: 1.9 TFLOP per image once
(VAE 1.1, UNet 0.8), 4.7 MB of stored features per 512 x 512 crop = 95 GB for the 20,210 training crops; without the
disk space set model.backbone.store=None and pay the denoiser in every epoch. Needs a GPU.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.ade20k import *
    from .._base_.by_iterations import *
    from .._base_.sd15 import *

model["decode_head"].update({"num_classes": 150})
model["test_cfg"] = {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
