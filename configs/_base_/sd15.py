"""`fpn` with 256 channels on Stable Diffusion 1.5, at the taps of VPD (ICCV 2023): strides 8, 16, 32 and 64."""

from mmengine.config import read_base

with read_base():
    from .fpn import *

model["backbone"].update(
    {
        "name": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "taps": [
            "up_blocks.3.attentions.2",
            "up_blocks.2.attentions.1",
            "up_blocks.1.attentions.1",
            "up_blocks.0.resnets.1",
        ],
        "dtype": "bfloat16",
    }
)
model["neck"].update({"out_channels": 256, "num_outs": 4})
model["decode_head"].update({"channels": 256, "in_index": [0, 1, 2, 3]})
