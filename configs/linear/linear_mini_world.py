"""Pointwise head on the frozen `mini`: what the features alone can tell, at the least cost of training.

    python tools/train.py configs/linear/linear_mini_world.py
    python tools/test.py configs/linear/linear_mini_world.py runs/linear_mini_world/model

Eight timesteps are averaged, all taps are resized to the finest one, and one 1x1 convolution of 64 channels stands
before the classifier. After the first epoch the features come from the store and an epoch costs next to nothing.
"""

from mmengine.config import read_base
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead

with read_base():
    from .._base_.adamw import *
    from .._base_.fpn import *
    from .._base_.runtime import *
    from .._base_.world import *

model = {
    "type": EncoderDecoder,
    "data_preprocessor": model["data_preprocessor"],
    "backbone": {**model["backbone"], "timesteps": [10, 40, 80, 130, 200, 300, 400, 500], "aggregate": "mean"},
    "decode_head": {
        "type": FCNHead,
        "in_index": [0, 1, 2, 3, 4],
        "input_transform": "resize_concat",
        "channels": 64,
        "num_convs": 1,
        "kernel_size": 1,
        "concat_input": False,
        "num_classes": 19,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0, "avg_non_ignore": True},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}
