"""`runtime` and `adamw` for training counted in iterations: warm-up over 1,500, then polynomial decay to zero."""

from mmengine.config import read_base
from mmengine.optim import LinearLR, PolyLR

with read_base():
    from .adamw import *
    from .runtime import *

default_hooks["logger"].update({"interval": 50, "log_metric_by_epoch": False})
default_hooks["checkpoint"].update({"by_epoch": False, "interval": 2000})
log_processor.update({"by_epoch": False, "window_size": 50})
optim_wrapper["optimizer"].update({"lr": 1e-3})
param_scheduler = [
    {"type": LinearLR, "start_factor": 1e-3, "by_epoch": False, "begin": 0, "end": 1500},
    {"type": PolyLR, "eta_min": 0.0, "power": 0.9, "by_epoch": False, "begin": 1500},
]
