"""Folders of trained models, as `tools/train.py` and `perception convert` write them: which task, on which backbone."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.commands.arguments import a_path, local_device, size_pair
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.backbones.typicality import TypicalityMeter

SHIPPED = Path(__file__).parents[1] / "heads"
TASKS = ("semantic", "referring", "depth")
_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Artifact:
    """A folder with config.json and model.safetensors, not yet loaded."""

    folder: Path
    task: str  # of TASKS
    config: dict[str, Any]  # arguments of the network's constructor

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


def add_model_arguments(parser: argparse.ArgumentParser, default: str, *, any_size: bool = False) -> None:
    """--model, --backbone, --device, --size."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=a_path, metavar="FOLDER", help=f"a trained model (default: {default})")
    group.add_argument(
        "--backbone", metavar="NAME", help="where its diffusion model lies on this machine (default: as trained)"
    )
    group.add_argument("--revision", help="branch, tag or commit of a --model of the hub (default: its main branch)")
    group.add_argument("--device", help="torch device (default: the best one present)")
    group.add_argument(
        "--size",
        type=size_pair,
        help="the network sees: side, or HEIGHTxWIDTH"
        + (
            " (default: the shorter side as trained, else the image's size)"
            if any_size
            else ", multiples of 64 (default: as trained, or as tested by sliding windows, else the nearest to the"
            " image's)"
        )
        + "; results have the image's own size",
    )


def read_artifact(folder: Path | None, default_task: str) -> Artifact:
    """The artifact in `folder`, by default the shipped one of a task.

    Raises:
        UserError: no such folder, a file is missing or broken, or it is no model of this program, or it holds what no
            model may hold.
    """
    from perception.encoders.head_folder import read_config
    from perception.encoders.head_rules import check_arguments, check_semantic

    path = SHIPPED / f"mini-{default_task}" if folder is None else folder.expanduser()
    if folder is None and not path.is_dir():
        raise UserError(f"No model was given and this installation has no {default_task} one; add --model FOLDER.")
    if not path.is_dir():
        raise UserError(f"{path} is no folder; --model takes the folder of a trained model, such as WORK_DIR/model.")
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"{path} is no folder of a trained model: {missing[0]} is missing; --model takes a folder such as "
            "WORK_DIR/model, where tools/train.py puts it."
        )
    config = read_config(path)
    task = config.get("task", "semantic" if {"model", "classes", "palette"} <= set(config) else None)
    if task not in TASKS:
        raise UserError(f"{path}/config.json describes no model of perception; its task must be {', '.join(TASKS)}.")
    check = check_semantic if task == "semantic" else check_arguments
    check(config, f"{path}/config.json")
    return Artifact(path, task, config)


def found_model(args: argparse.Namespace) -> Path | None:
    """The folder of --model, fetched where it is owner/name of the hub; None: the shipped one."""
    model: Path | None = args.model
    if args.revision is None and (model is None or model.exists() or model.as_posix().count("/") != 1):
        return model
    from perception.backbones.loading.hub import check_revision, download_head, is_hub_id

    check_revision(model, args.revision)
    if model is not None and is_hub_id(model.as_posix()):
        return download_head(model.as_posix(), args.revision)
    return model


def check_classes(names: Sequence[str], artifact: Artifact) -> None:
    """Raises UserError for a class that a semantic model does not have."""
    known = artifact.config.get("classes", ())
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(known)}."
            raise UserError(f"{artifact.folder} has no class '{name}'; {hint}")


def place(args: argparse.Namespace) -> Any:
    """The torch device of parsed arguments; under torchrun each rank takes the GPU of its LOCAL_RANK."""
    from perception.backbones.devices import pick_device

    return pick_device(args.device or local_device())


def meter(artifact: Artifact, encoder: Any) -> TypicalityMeter | None:
    """What tells how typical images are of those that a shipped model was trained on: they are its backbone's own.

    Nobody knows what other models were trained on: a head on `mini` may have learned from photographs.
    """
    from perception.backbones.typicality import TypicalityMeter

    return TypicalityMeter.of(getattr(encoder, "backbone", None)) if artifact.folder.parent == SHIPPED else None


def load_semantic(artifact: Artifact, backbone: str | None) -> Any:
    """The SegmentationModel of an artifact, in eval mode on the CPU. Imports mmseg, for seconds."""
    from perception.training.export.mmseg_model import SegmentationModel

    if backbone is None:
        return _load(SegmentationModel.from_pretrained, artifact)
    model = json.loads(json.dumps(artifact.config["model"]))
    if "name" not in model["backbone"]:
        raise UserError(f"{artifact.folder} has no diffusion backbone; leave --backbone out.")
    model["backbone"]["name"] = backbone
    return _load(SegmentationModel.from_pretrained, artifact, model=model)


def load_network(from_pretrained: Callable[..., Any], artifact: Artifact, backbone: str | None) -> Any:
    """A TaskNetwork from its artifact, in eval mode on the CPU, on another folder of the same backbone if named."""
    return _load(from_pretrained, artifact, **({} if backbone is None else {"backbone": backbone}))


def revisions_of(artifact: Artifact, network: Any) -> dict[str, str]:
    """Commits of what came from the hub: of the head ("model"), its backbone and autoencoder."""
    inner = getattr(getattr(network, "segmentor", None), "backbone", network)
    holders = (getattr(inner, name, None) for name in ("vpd", "frozen"))
    backbone = next((each.backbone for each in holders if each is not None), getattr(inner, "backbone", None))
    return {**artifact.revisions, **getattr(backbone, "revisions", {})}


def _load(from_pretrained: Callable[..., Any], artifact: Artifact, **changes: Any) -> Any:
    """`changes` replace values of the artifact's config."""
    with redirect_stdout(sys.stderr):  # huggingface_hub prints where the weights come from
        return from_pretrained(artifact.folder, **changes).eval()
