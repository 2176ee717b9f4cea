"""What is exported when a training ends: the best checkpoint as an artifact folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel

from perception.encoders.head_rules import check_model
from perception.errors import UserError
from perception.metrics.confusion import format_report
from perception.training.export.generator import export_generator
from perception.training.export.mmseg_model import export_model, export_network, portable
from perception.training.export.weights import read_checkpoint
from perception.training.hooks import unwrapped
from perception.training.models.generator_base import GeneratorModel
from perception.training.models.tasks import TaskModel
from perception.training.runner import Runner


def export_best(runner: Runner, config: Config) -> None:
    """Write WORK_DIR/model from the best checkpoint, or from the model as it is where no validation chose one."""
    work_dir = Path(config.work_dir)
    best = runner.message_hub.runtime_info.get("best_ckpt")
    model = unwrapped(runner.model)
    if best is not None:
        model.load_state_dict(read_checkpoint(Path(best)))
    path = work_dir / "metrics.json"
    figures = json.loads(path.read_text())["best"] if path.exists() else {}
    folder = work_dir / "model"
    if isinstance(model, GeneratorModel):
        export_generator(model, folder, config.train_dataloader.dataset.to_dict(), figures)
        runner.logger.info(f"trained network: {folder}, all validations: {path}")
        return
    if reason := not_exported(model, config):
        runner.logger.warning(f"{reason}; all validations: {path}")
        return
    slides = config.model.get("test_cfg", {}).get("mode") == "slide"
    size = None if slides else _padded_size(model, runner.train_dataloader.dataset[0])
    if isinstance(model, TaskModel):
        export_network(model.network, folder, size, figures)
    else:
        tested = slides and runner.val_loop is not None
        side = min(runner.val_dataloader.dataset[0]["inputs"].shape[-2:]) if tested else None
        meta = runner.train_dataloader.dataset.metainfo
        export_model(model, config.model.to_dict(), meta, folder, size, figures, tested_side=side)
    if "IoU" in figures:
        title = f"best validation (iteration {figures['iteration']}) [%]"
        runner.logger.info(format_report(figures, title))
    runner.logger.info(f"trained head: {folder}, all validations: {path}")


def not_exported(model: BaseModel, config: Config) -> str | None:
    """Why a semantic model will be no folder, for one that is built of classes which a folder may not name."""
    if isinstance(model, (GeneratorModel, TaskModel)):
        return None
    try:
        check_model(portable(config.model.to_dict()), "the config")
    except UserError as error:
        return f"no folder is made of this model, test its checkpoints with tools/test.py CONFIG FILE.pth: {error}"
    return None


def _padded_size(model: BaseModel, sample: dict[str, Any]) -> list[int]:
    """Height and width in which a model gets a training image, padding included."""
    batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    return list(model.data_preprocessor(batch, training=True)["inputs"].shape[-2:])
