"""The weights that tools/test.py is given: read, matched with the task of a config, and put into its model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import Tensor, nn

from perception.backbones.ldm_names import UNET_PREFIX
from perception.data.inputs import UNREADABLE
from perception.encoders.artifact import read_artifact
from perception.errors import UserError
from perception.tasks import TASKS, imported
from perception.training.config.check import find_type
from perception.training.export.mmseg_model import fingerprint_of
from perception.training.hooks import check_state, unwrapped
from perception.training.models.tasks import TaskModel

_ADAPTERS = {
    **{task: row.adapter for task, row in TASKS.items() if row.adapter},
    "the source style": "perception.SourceGenerator",
    "control": "perception.ControlGenerator",
}


def trained_config(folder: Path) -> dict[str, Any]:
    """The config.json of an artifact folder, whose arguments its network takes: a config is made of them.

    Raises:
        UserError: as `read_artifact`, and for arguments that the network does not take.
    """
    artifact = read_artifact(folder)
    imported(artifact.row.network).check_config(artifact.config, folder)
    return artifact.config


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The model weights of an mmengine checkpoint, read without running pickled code.

    Raises:
        UserError: the file is missing, torn, or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a .pth file or the folder WORK_DIR/model")
    try:
        if not zipfile.is_zipfile(path):  # torch.save writes a zip; its directory stands at the end: a torn one is none
            raise UserError(f"{path} is no checkpoint, or a torn one; train again or copy it again")
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is no checkpoint of mmengine with plain tensors ({reason}); train again") from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no tensors under state_dict; name a checkpoint that tools/train.py wrote")
    return dict(state)


def task_of(config: Config) -> str:
    """semantic, referring, depth, or a stage of the generator: what the model of a config is for."""
    target = find_type(config.model.type)
    return next((task for task, name in _ADAPTERS.items() if find_type(name) is target), "semantic")


def check_task(config: Config, state: Mapping[str, Tensor], artifact: dict[str, Any] | None, source: Path) -> None:
    """UserError for the weights of another task, and for those of a published checkpoint as it is."""
    if any(name.startswith(UNET_PREFIX) for name in state):
        raise UserError(
            f"{source} is a checkpoint of VPD's authors; make a folder of it with `perception convert` first"
        )
    signs = (task for task, row in TASKS.items() if any(name.startswith(row.sign) for name in state))
    wanted = task_of(config)
    task = artifact.get("task", "semantic") if artifact else next(signs, wanted)
    if task != wanted:
        raise UserError(f"{source} is a model for {task}, but the data of this config are for {wanted}; match the two")


def take_model(config: Config, artifact: dict[str, Any]) -> None:
    """Put the model of an artifact into a config, in place; store and test options stay the config's."""
    task = artifact.get("task", "semantic")
    if task != "semantic":
        arguments = {key: value for key, value in artifact.items() if key != "metrics"}
        config.model.network = {"type": imported(TASKS[task].network), **arguments}
        return
    store = config.model.backbone.get("store")
    own = artifact["model"]
    config.model = own | {"backbone": own["backbone"] | ({"store": store} if store else {})}


def load_state(model: nn.Module, state: dict[str, Tensor], source: Path, artifact: dict[str, Any] | None) -> None:
    """Put the weights into a model; UserError for other keys or shapes, and for a head of another backbone."""
    model = unwrapped(model)
    check_state(state, model.state_dict(), str(source))
    model.load_state_dict(state)
    if artifact is None or isinstance(model, TaskModel):  # a network compares fingerprints when it is made
        return
    found = fingerprint_of(model)
    if artifact.get("backbone_fingerprint") != found:
        raise UserError(
            f"{source} was trained on backbone weights {artifact.get('backbone_fingerprint')}, but those here are"
            f" {found}; use the same backbone or train the head again"
        )
