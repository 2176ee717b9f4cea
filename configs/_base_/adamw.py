"""AdamW with a linear warm-up and a cosine decay over the epochs of `train_cfg`, iteration by iteration."""

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

optim_wrapper = {
    "type": OptimWrapper,
    "optimizer": {"type": AdamW, "lr": 2e-3, "weight_decay": 1e-2},
    "clip_grad": {"max_norm": 5.0},
}
param_scheduler = [
    {"type": LinearLR, "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 50},
    {"type": CosineAnnealingLR, "eta_min": 1e-5, "by_epoch": True, "begin": 0, "convert_to_iter_based": True},
]
