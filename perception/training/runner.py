"""mmengine's Runner with a readable console (the log file keeps everything), and mixed precision on CPUs."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from perception.data.files import replacing
from perception.errors import UserError
from perception.training.config.check import late_schedules


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward passes under bfloat16 autocast on the CPU; weights, gradients and steps stay float32.

    bfloat16 has the range of float32, so that losses are not scaled.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Around the forward pass of one iteration."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


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

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """mmengine's, without the advice of mmseg's cross-entropy, which is wrong for a loss with class weights."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"[\s\S]*avg_non_ignore")
            return super().build_model(model)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's, which is asked when the number of iterations is known.

        Raises:
            UserError: a schedule begins when the training has ended.
        """
        if late := late_schedules(scheduler, self.max_epochs, self.max_iters):
            raise UserError("; ".join(late))
        return super().build_param_scheduler(scheduler)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """mmengine's, written beside its place, put on disk and renamed: whole, or the older file stays.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        with replacing(Path(out_dir) / filename) as beside:
            super().save_checkpoint(out_dir, beside.name, *args, **kwargs)


def _worth_reading(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LOG_FILE_ONLY)


@contextmanager
def distributed(config: Config) -> Iterator[None]:
    """Under torchrun: one of many processes, with NCCL on GPUs and gloo on CPUs; `config` is adapted in place.

    All processes leave together: one that ended while others still write would do so with threads of the process group
    alive, which may abort it, and torchrun then kills the writer. After an error nobody waits; torchrun ends the rest.
    A process group that was open before stays open.

    mmengine knows distributed training on accelerators alone: it asks CUDA for a device and hands DDP its number. So
    on CPUs the process group is opened here, which the Runner respects, and DDP gets no device.

    Raises:
        UserError: more processes than GPUs, or norms are to be shared between processes on CPUs, which torch cannot.
    """
    if "RANK" not in os.environ:
        yield
        return
    config.launcher = "pytorch"
    opened_here = not torch.distributed.is_initialized()
    if torch.cuda.is_available():
        rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if rank >= gpus:
            raise UserError(
                f"process {rank} of this machine has no GPU: there are {gpus}; start torchrun with"
                f" --nproc-per-node {gpus}, or CUDA_VISIBLE_DEVICES= for CPUs"
            )
    else:
        if config.get("sync_bn"):
            raise UserError(
                f"sync_bn={config.sync_bn!r} shares norms between processes, which works on GPUs alone; on CPUs add"
                " --cfg-options sync_bn=None"
            )
        if opened_here:
            torch.distributed.init_process_group("gloo")
        on_cpu = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
        config.model_wrapper_cfg = on_cpu | dict(config.get("model_wrapper_cfg") or {})
    yield
    torch.distributed.barrier()
    if opened_here:
        torch.distributed.destroy_process_group()


def use_mixed_precision(config: Config) -> None:
    """Switch the optimizer wrapper to automatic mixed precision, in place.

    On GPUs float16 with dynamic loss scaling; on CPUs bfloat16, which needs no scaling.
    """
    on_cpu = f"{BFloat16OptimWrapper.__module__}.{BFloat16OptimWrapper.__name__}"
    config.optim_wrapper.type = "AmpOptimWrapper" if torch.cuda.is_available() else on_cpu
