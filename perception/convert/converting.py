"""`convert_checkpoint`: a published VPD checkpoint as a folder that opens like any trained network here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perception.backbones.ldm_names import vae_ldm_names, with_shape
from perception.convert.layouts import LAYOUTS, VAE, Layout, check_task, is_junk
from perception.convert.networks import TARGETS, Target
from perception.convert.reading import Checkpoint, read_checkpoint
from perception.data.files import fresh_folder
from perception.errors import UserError

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_TOLERANCE = 1e-3  # of a tensor's largest value: the autoencoder may have been saved in half precision


@dataclass(frozen=True)
class Report:
    """What became of the tensors of a checkpoint."""

    converted: int  # in the artifact
    compared: int  # of the frozen autoencoder, found equal to the backbone's
    dropped: tuple[str, ...]  # nothing uses them
    note: str

    def render(self) -> str:
        """One line."""
        junk = f"{len(self.dropped)} unused ones left out" if self.dropped else "none left out"
        return (
            f"{self.converted} tensors converted, {self.compared} of the autoencoder equal to the backbone's, {junk}"
            f"; {self.note}"
        )


def convert_checkpoint(
    task: str,  # a key of LAYOUTS
    file: Path,
    out: Path,  # new folder: config.json, model.safetensors, README.md
    *,
    backbone: str = SD15,  # supplies what was frozen: autoencoder, text encoder, tokenizer, schedule
    classes: Sequence[str] | None = None,  # names of semantic classes or rooms, in order
) -> Report:
    """Convert one checkpoint; every tensor of it is converted, compared, or known to be of no use.

    Raises:
        UserError: an unreadable file, another task, tensors missing, unexpected or mis-shaped (all are listed), another
            autoencoder than the backbone's, or OUT in use. Nothing is written then.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another output folder or delete it")
    checkpoint = read_checkpoint(file)
    check_task(task, checkpoint.weights, file)
    layout, target = LAYOUTS[task], TARGETS[task](checkpoint, backbone, classes)
    report = fill(checkpoint, layout, target)
    _write(out, target.save)
    return report


def fill(checkpoint: Checkpoint, layout: Layout, target: Target) -> Report:
    """Load the weights of a checkpoint into the network of `target`.

    Raises:
        UserError: as `convert_checkpoint`.
    """
    weights, state = checkpoint.weights, target.module.state_dict()
    names = layout.names(state)
    backbone = target.vpd.backbone
    encoder = {
        f"{layout.theirs}{VAE}{ldm}": backbone.vae.state_dict()[name]
        for name, ldm in vae_ldm_names(backbone.vae.state_dict()).items()
    }
    wanted = {theirs: state[ours] for ours, theirs in names.items()} | encoder
    _check_keys(checkpoint, wanted, layout)
    _check_encoder(checkpoint, encoder, backbone.name)
    loaded = {ours: with_shape(weights[theirs], state[ours].shape) for ours, theirs in names.items()}
    target.module.load_state_dict(state | loaded)
    dropped = tuple(sorted(set(weights) - set(wanted)))
    return Report(len(names), len(encoder), dropped, target.note)


def _check_keys(checkpoint: Checkpoint, wanted: Mapping[str, Tensor], layout: Layout) -> None:
    """Every key of both sides, once, in one sentence."""
    weights = checkpoint.weights
    problems = {
        "missing": sorted(set(wanted) - set(weights)),
        "unexpected": sorted(name for name in set(weights) - set(wanted) if not is_junk(name)),
        "mis-shaped": [
            f"{name} is {list(weights[name].shape)}, expected {list(value.shape)}"
            for name, value in wanted.items()
            if name in weights and with_shape(weights[name], value.shape).shape != value.shape
        ],
    }
    found = [f"{title}: {', '.join(keys)}" for title, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"{checkpoint.path} does not hold the tensors of a {layout.task} checkpoint ({'; '.join(found)}); convert"
            " the file as it was published, with the Stable Diffusion model it was trained on as --backbone"
        )


def _check_encoder(checkpoint: Checkpoint, encoder: Mapping[str, Tensor], backbone: str) -> None:
    """The checkpoint carries a copy of the frozen autoencoder; the artifact takes it from the backbone."""
    other = [
        name
        for name, value in encoder.items()
        if not torch.allclose(
            with_shape(checkpoint.weights[name], value.shape).float(),
            value.float(),
            rtol=0,
            atol=_TOLERANCE * float(value.abs().max()),
        )
    ]
    if other:
        raise UserError(
            f"{checkpoint.path} was trained on another autoencoder than that of {backbone!r} (different:"
            f" {', '.join(other)}); name the Stable Diffusion model it was trained on with --backbone"
        )


def _write(out: Path, save: Callable[[Path], object]) -> None:
    """All files of the folder, or none."""
    fresh = fresh_folder(out)
    shutil.rmtree(fresh, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(fresh)
    if out.exists():
        out.rmdir()
    fresh.rename(out)
