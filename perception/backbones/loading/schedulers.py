"""Noise schedules by name: scheduler_config.json is read as data, and a listed class of diffusers is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers

from perception.errors import UserError, foreign_errors

SCHEDULERS = (
    *("DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler"),
    *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"),
    *("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler"),
)
_MOST = 100_000  # of the steps, and of every whole number in the config


def scheduler_problems(name: str, config: Mapping[str, Any]) -> list[str]:
    """What forbids to build this scheduler, each as a clause."""
    if name not in SCHEDULERS:
        return [f"the scheduler is {name[:80]!r}, supported are {', '.join(SCHEDULERS)}"]
    found = [
        f"{key[:60]} is {str(value)[:60]}"
        for key, value in config.items()
        if not key.startswith("_") and not _is_plain(value)
    ]
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= _MOST:
        found.append(f"num_train_timesteps is {str(steps)[:60]!r}, expected 1 to {_MOST}")
    return [f"{name} does not take scheduler/scheduler_config.json ({'; '.join(found)})"] if found else []


def build_scheduler(name: str, config: Mapping[str, Any], where: object) -> Any:
    """The diffusers scheduler `name` with those keys of its config that it knows; nothing else of the folder is read.

    Raises:
        UserError: the class does not take the values; `where` names the folder.
    """
    cls = getattr(diffusers, name)
    unset = config.get("_use_default_values") or ()
    known = [key for key in inspect.signature(cls.__init__).parameters if key in config and key not in unset]
    with foreign_errors(
        lambda reason: UserError(
            f"the model folder {where} cannot be used: {name} does not take scheduler/scheduler_config.json "
            f"({reason}); correct that file, or download the model again"
        )
    ):
        return cls(**{key: config[key] for key in known if key != "kwargs"})


def _is_plain(value: Any) -> bool:
    """A word, a number or a list of numbers, whole ones within bounds."""
    if isinstance(value, list):
        return len(value) <= _MOST and all(isinstance(entry, (int, float)) and _is_plain(entry) for entry in value)
    return value is None or isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) <= _MOST)
