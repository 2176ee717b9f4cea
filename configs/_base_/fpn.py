"""Semantic FPN (Kirillov et al. 2019) of 64 channels on five taps of the frozen `mini`: the latent and the up blocks.

`in_channels` and `feature_strides` are filled in from the taps. Batch norm behind each convolution of the neck evens
out the very different scales of the taps.
"""

from mmengine.config import read_base
from mmseg.models import FPN, CrossEntropyLoss, EncoderDecoder, FPNHead
from perception.training.models.backbones import DiffusionFeatures

with read_base():
    from .rgb01 import *

_norm = {"type": "BN", "requires_grad": True}

model = {
    "type": EncoderDecoder,
    "data_preprocessor": {
        **rgb01,
        "pad_val": 0,
        "seg_pad_val": 255,
        "size_divisor": 64,
        "test_cfg": {"size_divisor": 64},
    },
    "backbone": {
        "type": DiffusionFeatures,
        "name": "mini",
        "taps": ["latent", "up_blocks.3", "up_blocks.2", "up_blocks.1", "up_blocks.0"],  # strides 8, 8, 8, 16, 32
        "timesteps": [50],
        "noise": "shared",
        "dtype": "float32",
        "random_init_seed": None,
        "store": "runs/store",
    },
    "neck": {"type": FPN, "out_channels": 64, "num_outs": 5, "norm_cfg": _norm},
    "decode_head": {
        "type": FPNHead,
        "in_index": [0, 1, 2, 3, 4],
        "channels": 64,
        "num_classes": 19,
        "dropout_ratio": 0.1,
        "norm_cfg": _norm,
        "align_corners": False,
        "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0, "avg_non_ignore": True},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}
