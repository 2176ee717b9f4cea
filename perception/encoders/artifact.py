"""Folders of trained models, as `tools/train.py` and `perception convert` write them: which task, on which backbone.

predictor = load_model("runs/vpd/model")     # the predictor of its task; by default on the best device present
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.errors import UserError
from perception.tasks import TASKS, Task, imported

SHIPPED = Path(__file__).parents[1] / "heads"
_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Artifact:
    """A folder with config.json and model.safetensors, not yet loaded."""

    folder: Path
    task: str  # of TASKS
    config: dict[str, Any]  # arguments of the network's constructor

    @property
    def row(self) -> Task:
        """Of the table of tasks."""
        return TASKS[self.task]

    @property
    def revisions(self) -> dict[str, str]:
        """Its commit, where it came from the hub."""
        from perception.backbones.loading.hub import revision_of

        commit = revision_of(self.folder)
        return {} if commit is None else {"model": commit}

    def digest(self) -> str:
        """Names weights and config: the model's part of a job's fingerprint."""
        from perception.data.files import file_hash

        hashes = [file_hash(self.folder / name) for name in _FILES]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]

    def load(self, backbone: str | None = None) -> Any:
        """The network, in eval mode on the CPU; `backbone` names another folder of the same diffusion model.

        Raises:
            UserError: a semantic head without a diffusion model was given one, and what loading the network raises.
        """
        changes: dict[str, Any] = {}
        if backbone is not None and self.task == "semantic":
            changes = {"model": json.loads(json.dumps(self.config["model"]))}
            if "name" not in changes["model"]["backbone"]:
                raise UserError(f"{self.folder} has no diffusion backbone; leave --backbone out.")
            changes["model"]["backbone"]["name"] = backbone
        elif backbone is not None:
            changes = {"backbone": backbone}
        with redirect_stdout(sys.stderr):  # huggingface_hub prints where the weights come from
            return imported(self.row.network).from_pretrained(self.folder, **changes).eval()


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder; loads no weights.

    Raises:
        UserError: no such folder, a file is missing or broken, or it is no model of this program, or it holds what no
            model may hold.
    """
    from perception.encoders.head_folder import read_config  # torch
    from perception.encoders.head_rules import check_arguments, check_semantic

    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the folder of a trained model, such as WORK_DIR/model.")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is no folder of a trained model: {missing[0]} is missing; name a folder such as WORK_DIR/model, "
            "where tools/train.py puts it."
        )
    config = read_config(folder)
    task = config.get("task", "semantic" if {"model", "classes", "palette"} <= set(config) else None)
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"{folder}/config.json describes no model of perception; its task must be {', '.join(TASKS)}.")
    check = check_semantic if task == "semantic" else check_arguments
    check(config, f"{folder}/config.json")
    return Artifact(folder, task, config)


def load_model(folder: str | Path, device: str | None = None) -> Any:
    """The predictor of a trained folder, or of a shipped head by its name ("mini-semantic").

    Args:
        folder: WORK_DIR/model of a training, a converted checkpoint, or the name of a shipped head.
        device: None: the first of CUDA, MPS and CPU that is available.

    Raises:
        UserError: as `read_artifact`, and what loading the network raises.
    """
    from perception.backbones.devices import pick_device

    shipped = SHIPPED / str(folder)
    artifact = read_artifact(shipped if shipped.parent == SHIPPED and shipped.is_dir() else Path(folder).expanduser())
    place = pick_device(device)
    return imported(artifact.row.predictor)(artifact.load().to(place), None, place)
