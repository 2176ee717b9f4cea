"""VPD (Zhao et al. 2023) with a Semantic FPN of 64 channels on the frozen `mini`, prompted with the class names.

Four maps at strides 8, 16, 32 and 64; at 16 and 32 the averaged cross-attention maps are appended, one channel per
class. `in_channels` and `feature_strides` are filled in.
"""

from mmengine.config import read_base
from mmseg.models import FPN, CrossEntropyLoss, EncoderDecoder, FPNHead
from perception.training.models.features import VPDFeatures

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
        "type": VPDFeatures,
        "name": "mini",
        "conditioning": "class_names",  # or learned, captions, empty
        "names": "perception.WorldScenes",  # the data set that knows the class names
        "adapter": False,
        "timestep": 1,
        "latent_scale": None,  # the model's own; the published weights need 1.0
        "map_strides": [16, 32],
        "train": "head",  # besides the head; or text, lora, denoiser
        "attn_grad": False,
        "standardize": True,  # attention maps are small numbers beside features
        "dtype": "float32",
        "random_init_seed": None,
        "side": None,  # or a timm model trained beside the frozen one
        "store": "runs/store",
    },
    "neck": {"type": FPN, "out_channels": 64, "num_outs": 4, "norm_cfg": _norm},
    "decode_head": {
        "type": FPNHead,
        "in_index": [0, 1, 2, 3],
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
