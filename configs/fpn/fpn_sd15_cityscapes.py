"""FPN head of 256 channels on the frozen Stable Diffusion 1.5, Cityscapes (19 classes) at 512.

    python tools/train.py configs/fpn/fpn_sd15_cityscapes.py --data-root data/cityscapes

Target: not measured yet. Cost: 1.9 TFLOP per crop once (VAE 1.1, UNet 0.8), 4.7 MB of stored features per crop = 28 GB
for the 5,950 training crops (two views of 2,975 images). Needs a GPU.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.by_iterations import *
    from .._base_.cityscapes import *
    from .._base_.sd15 import *

model["decode_head"].update({"num_classes": 19})
