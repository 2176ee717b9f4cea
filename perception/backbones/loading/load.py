"""`load_backbone`: from a name to a checked, frozen DiffusionBackbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.devices import pick_device
from perception.backbones.loading.assemble import Parts, assemble, identity
from perception.backbones.loading.build import build_model, check_skeleton
from perception.backbones.loading.folder import (
    Component,
    check_model_folder,
    read_component,
    unusable,
)
from perception.backbones.loading.hub import check_revision, download, is_hub_id, revision_of
from perception.backbones.loading.schedulers import build_scheduler
from perception.backbones.loading.weight_files import parameters_of
from perception.backbones.noise_path import noise_path
from perception.backbones.own_pictures import read_own_pictures
from perception.backbones.shipped import SHIPPED
from perception.errors import UserError, foreign_errors

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def load_backbone(
    name: str | Path = "mini",
    *,
    dtype: torch.dtype | str = "float32",
    device: str | torch.device | None = None,
    random_init_seed: int | None = None,
    vae: str | Path | None = None,
    revision: str | None = None,
) -> DiffusionBackbone:
    """Load a frozen diffusion backbone.

    Args:
        name: "mini" or "mini-dit" (shipped with the package), a local diffusers folder, or a Hugging Face hub id:
            Stable Diffusion 1.x, 2.x, XL, 3, 3.5, DiT, PixArt-alpha, -sigma, Flux.
        dtype: of the weights and the computation: float32, bfloat16 or float16. Noise coefficients, latents and
            prediction conversions stay float32; so does, under float16, an `AutoencoderKL` whose config asks for it
            (`force_upcast`: its activations overflow in half precision).
        device: default is the first of CUDA, MPS and CPU that is available.
        random_init_seed: keep architecture and tokenizer but draw all weights anew from this seed: the control that
            shows what the training of the backbone is worth.
        vae: another autoencoder for the same latents, e.g. a tiny one: a folder with config.json and weights, or a
            hub id.
        revision: of a hub id: a branch, tag or commit; None: the main branch. `revisions` of the backbone says which
            commit was found.

    Raises:
        UserError: when the folder is incomplete, truncated, inconsistent or of an unsupported kind. Configs and file
            sizes are checked before any weight is loaded.
    """
    kind, place = _dtype(dtype), pick_device(device)
    foreign = str(name) not in SHIPPED or vae is not None  # what comes with the package is known to run
    check_revision(name, revision)
    folder = check_model_folder(_resolve(name, revision), None if vae is None else autoencoder_of(vae))
    known_as = identity(folder, random_init_seed)
    path = noise_path(build_scheduler(*folder.scheduler, folder.path))
    with parameters_of(None):  # a head around the backbone counts its own weights alone
        for key, part in folder.models.items() if foreign else ():
            check_skeleton(key, part)
        tokenizers = {name: _tokenizer(*found, folder.path) for name, found in folder.tokenizers.items()}
        with torch.random.fork_rng(devices=[]):  # constructors draw default weights from the global generator
            models = {key: build_model(key, part, kind, random_init_seed) for key, part in folder.models.items()}
        with foreign_errors(lambda reason: unusable(folder.path, [f"its parts do not fit together ({reason})"])):
            denoiser, conditioner = assemble(Parts(folder, models, tokenizers))
            backbone = DiffusionBackbone(
                name=str(name),
                identity=known_as,
                denoiser=denoiser,
                vae=models.get("vae"),
                conditioner=conditioner,
                path=path,
                own_pictures=read_own_pictures(folder.path, known_as),
            )
            if foreign:
                assert backbone.taps  # the denoiser runs once, without memory
    places = {"backbone": folder.path, **({} if vae is None else {"vae": folder.models["vae"].folder})}
    backbone.revisions = {part: commit for part, where in places.items() if (commit := revision_of(where))}
    return backbone.to(place)


def _tokenizer(class_name: str, where: Path, folder: Path) -> Any:
    with foreign_errors(lambda reason: unusable(folder, [f"its {where.name} cannot be read ({reason})"])):
        return getattr(transformers, class_name).from_pretrained(where, local_files_only=True)


def _resolve(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model; only names of the form owner/model that are no local path go to the hub."""
    shipped = SHIPPED.get(str(name))
    if shipped is not None:
        if not (shipped / "model_index.json").is_file():
            raise UserError(
                f"the backbone '{name}' is not part of this installation; install the package with its weights, "
                "or name a diffusers folder or a hub id"
            )
        return shipped
    return download(str(name), revision) if is_hub_id(name) else Path(name).expanduser()


def autoencoder_of(name: str | Path) -> Component:
    """The checked autoencoder in a local folder, in its sub-folder vae/, or in a hub model.

    Raises:
        UserError: when the folder is incomplete, truncated or holds something else.
    """
    path = _resolve(name)
    folder = path / "vae" if (path / "vae").is_dir() else path
    problems: list[str] = []
    component = read_component(folder, "vae", problems)
    if problems:
        raise unusable(folder, problems)
    return component


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    kind = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in _DTYPES.values():
        raise UserError(f"the dtype {dtype!r} is not supported; expected float32, bfloat16 or float16")
    return kind
