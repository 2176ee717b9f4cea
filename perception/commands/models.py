"""Arguments of the commands that open a trained model: --model, --backbone, --size, and what they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.commands.arguments import a_path, local_device, size_pair
from perception.encoders.artifact import SHIPPED, Artifact, read_artifact
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.backbones.typicality import TypicalityMeter


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


def chosen_artifact(args: argparse.Namespace, default_task: str) -> Artifact:
    """The artifact of --model, fetched where it is owner/name of the hub; by default the shipped one of a task.

    Raises:
        UserError: as `read_artifact`, a revision of what is no model of the hub, or a task of another command.
    """
    folder = _found_model(args)
    shipped = SHIPPED / f"mini-{default_task}"
    if folder is None and not shipped.is_dir():
        raise UserError(f"No model was given and this installation has no {default_task} one; add --model FOLDER.")
    return read_artifact(shipped if folder is None else folder.expanduser())


def check_command(artifact: Artifact, command: str) -> None:
    """Raises UserError for a model that another command opens."""
    if artifact.row.command != command:
        raise UserError(
            f"{artifact.folder} is a {artifact.task} model; use `perception {artifact.row.command}`, or name a model "
            f"for `perception {command}`."
        )


def _found_model(args: argparse.Namespace) -> Path | None:
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


def revisions_of(artifact: Artifact, network: Any) -> dict[str, str]:
    """Commits of what came from the hub: of the head ("model"), its backbone and autoencoder."""
    inner = getattr(getattr(network, "segmentor", None), "backbone", network)
    holders = (getattr(inner, name, None) for name in ("vpd", "frozen"))
    backbone = next((each.backbone for each in holders if each is not None), getattr(inner, "backbone", None))
    return {**artifact.revisions, **getattr(backbone, "revisions", {})}
