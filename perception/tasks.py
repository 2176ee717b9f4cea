"""The table of tasks: where the parts of each task lie, as dotted paths that are imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Task:
    """One row."""

    network: str  # class of a saved network, "module:name"
    predictor: str  # class that takes pictures: predictor(network, size, device)
    command: str  # of `perception`, that opens its folders
    sign: str  # prefix of a name that only its training checkpoints hold
    adapter: str | None = None  # registered name of its mmengine model; None: any segmentor of mmseg


TASKS: Mapping[str, Task] = {
    "semantic": Task(
        network="perception.training.export.mmseg_model:SegmentationModel",
        predictor="perception.segmentation.predictor:SemanticPredictor",
        command="segment",
        sign="decode_head.",
    ),
    "referring": Task(
        network="perception.segmentation.referring:ReferringNet",
        predictor="perception.segmentation.predictor:ReferringPredictor",
        command="segment",
        sign="network.decoder.",
        adapter="perception.ReferringSegmentor",
    ),
    "depth": Task(
        network="perception.depth.net:DepthNet",
        predictor="perception.depth.predictor:DepthPredictor",
        command="depth",
        sign="network.head.",
        adapter="perception.DepthEstimator",
    ),
}


def imported(path: str) -> Any:
    """What a "module:name" of the table stands for."""
    module, name = path.split(":")
    return getattr(import_module(module), name)
