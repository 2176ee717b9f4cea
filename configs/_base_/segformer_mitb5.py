"""SegFormer (Xie et al. 2021) with MiT-B5, trained as DAFormer and DGInStyle train theirs (source only).

AdamW 6e-5, the head ten times faster, no weight decay on norms; 1,500 iterations of warm-up, then linearly to zero at
40,000. Windows of 512 x 512 at stride 256. The feature distance to ImageNet (weight 0.005) is not here.
PERCEPTION_MIT_B5: the ImageNet weights as a file or URL (default: the released ones of OpenMMLab).
"""

from os import getenv

from mmengine.config import read_base
from mmengine.model import PretrainedInit
from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmseg.models import CrossEntropyLoss, EncoderDecoder, MixVisionTransformer, SegDataPreProcessor, SegformerHead
from torch.optim import AdamW

with read_base():
    from .runtime import *

_released = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b5_20220624-658746d9.pth"
model = {
    "type": EncoderDecoder,
    "data_preprocessor": {
        "type": SegDataPreProcessor,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": 255,
        "size": (512, 512),
        "test_cfg": {"size_divisor": 32},
    },
    "backbone": {
        "type": MixVisionTransformer,
        "embed_dims": 64,
        "num_layers": [3, 6, 40, 3],
        "num_heads": [1, 2, 5, 8],
        "drop_path_rate": 0.1,
        "init_cfg": {"type": PretrainedInit, "checkpoint": getenv("PERCEPTION_MIT_B5", _released)},
    },
    "decode_head": {
        "type": SegformerHead,
        "in_index": [0, 1, 2, 3],
        "channels": 256,
        "dropout_ratio": 0.1,
        "num_classes": 19,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
        "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0, "avg_non_ignore": True},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "slide", "crop_size": (512, 512), "stride": (256, 256)},
}
optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 6e-5, "betas": (0.9, 0.999), "weight_decay": 0.01},
    "paramwise_cfg": {
        "custom_keys": {"decode_head": {"lr_mult": 10.0}, "norm": {"decay_mult": 0.0}, "pos_block": {"decay_mult": 0.0}}
    },
}
param_scheduler = [
    {"type": LinearLR, "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": 1500},
    {"type": PolyLR, "eta_min": 0.0, "power": 1.0, "by_epoch": False, "begin": 1500, "end": 40000},
]
default_hooks["logger"].update({"interval": 50, "log_metric_by_epoch": False})
default_hooks["checkpoint"].update({"by_epoch": False, "interval": 4000})
log_processor.update({"by_epoch": False, "window_size": 50})
