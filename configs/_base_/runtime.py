"""What every run shares: logging, checkpoints, seed. Nothing here changes a result but the seed."""

from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.runner import LogProcessor
from perception.training.hooks import CheckpointHook

default_scope = "mmseg"
default_hooks = {
    "timer": {"type": IterTimerHook},
    "logger": {"type": LoggerHook, "interval": 20, "log_metric_by_epoch": True},
    "param_scheduler": {"type": ParamSchedulerHook},
    "checkpoint": {"type": CheckpointHook, "interval": 1, "max_keep_ckpts": 1, "save_best": "mIoU", "rule": "greater"},
    "sampler_seed": {"type": DistSamplerSeedHook},
}
log_processor = {"type": LogProcessor, "window_size": 20, "by_epoch": True}
env_cfg = {"cudnn_benchmark": False, "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}}
randomness = {"seed": 0}
log_level = "INFO"
load_from = None
resume = False
