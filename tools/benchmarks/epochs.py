"""How long the first and the second training epoch take when the features of a frozen backbone are stored."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from perception.data.world import TRAIN_SEED, render_scene
from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.registry import MODELS


def epoch_seconds(
    config_file: Path,  # a config with a DiffusionFeatures backbone and 19 classes
    backbone: str,  # what load_backbone takes
    scenes: int,
    size: int = 128,  # pixels
    options: Sequence[str] = (),  # more overrides of the config, "a.b=c"
    batch_size: int = 8,
) -> tuple[float, float]:
    """Seconds of epoch one (fills an empty store) and two (reads it), optimizer steps included, rendering left out."""
    batches = [_batch(range(start, start + batch_size), size) for start in range(0, scenes, batch_size)]
    unseen = _batch(range(scenes, scenes + batch_size), size)  # warms up without filling the store for the others
    with tempfile.TemporaryDirectory() as store:
        own = (f"model.backbone.name={backbone}", f"model.backbone.store={store}")
        config = load_config(config_file, Overrides((*own, *options)))
        complete_model(config)
        model = MODELS.build(config.model.to_dict()).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        _step(model, optimizer, unseen)
        first, second = (_epoch(model, optimizer, batches) for _ in range(2))
    return first, second


def _batch(indices: range, size: int) -> dict[str, Any]:
    scenes = [render_scene(TRAIN_SEED, index, size=(size, size)) for index in indices]
    samples = []
    for scene in scenes:
        sample = SegDataSample(metainfo={"img_shape": scene.labels.shape, "ori_shape": scene.labels.shape})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(scene.labels.astype(np.int64))[None])
        samples.append(sample)
    bgr = [np.ascontiguousarray(scene.image[..., ::-1].transpose(2, 0, 1)) for scene in scenes]
    return {"inputs": [torch.from_numpy(image) for image in bgr], "data_samples": samples}


def _epoch(model: Any, optimizer: torch.optim.Optimizer, batches: list[dict[str, Any]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        _step(model, optimizer, batch)
    model.backbone.frozen.flush()
    return time.perf_counter() - started


def _step(model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    data = model.data_preprocessor(batch, True)
    losses = model.forward(data["inputs"], data["data_samples"], mode="loss")
    optimizer.zero_grad()
    sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
    optimizer.step()
