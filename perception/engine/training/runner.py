"""mmengine's Runner with a console a person can read; the log file keeps everything."""

from __future__ import annotations

import logging
import os
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

# What mmengine writes at the start of a run and nobody reads: blocks of hundreds of lines, warnings about itself.
_LOG_FILE_ONLY = (
    *("\n----", "Config:\n", "Hooks will be executed", "Distributed training is not used", "Checkpoints will be"),
    *("Exp name:", "The prefix is not set", '"FileClient" will be', '"HardDiskBackend" is'),
)


class Runner(mmengine.runner.Runner):
    """mmengine's Runner; environment, config and hook tables go to the log file alone."""

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """mmengine's logger with a filter on its console handlers."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_worth_reading)
        return logger


def _worth_reading(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LOG_FILE_ONLY)


def distribute(config: Config) -> None:
    """Settings for one process or, under torchrun, for many: launcher and backend (gloo without a GPU), in place."""
    if "RANK" in os.environ:
        config.launcher = "pytorch"
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        config.merge_from_dict({"env_cfg": {"dist_cfg": {"backend": backend}}})


def use_mixed_precision(config: Config) -> None:
    """Switch the optimizer wrapper to AMP with dynamic loss scaling on a GPU, bfloat16 autocast on a CPU, in place."""
    config.optim_wrapper.type = "AmpOptimWrapper"
    if not torch.cuda.is_available():
        config.optim_wrapper.dtype = "bfloat16"
