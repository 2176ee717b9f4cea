"""`convert_dit`: an original DiT checkpoint (facebookresearch/DiT) as a folder that diffusers and this toolkit open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from perception.backbones.loading.folder import Component
from perception.backbones.loading.load import autoencoder_of
from perception.convert.dit_names import check_positions, dit_config, dit_weights
from perception.convert.reading import read_checkpoint
from perception.data.files import fresh_folder
from perception.errors import UserError


def convert_dit(
    file: Path,  # DiT-XL-2-256x256.pt or alike: a state dict
    out: Path,  # new folder in the layout of a DiTPipeline
    *,
    vae: str | Path,  # the autoencoder it was trained on (sd-vae-ft-ema): a folder or a hub id
    heads: int | None = None,  # attention heads; default: those of the published width
    names: Sequence[str] | None = None,  # class names in order, synonyms separated by commas
) -> dict[str, Any]:
    """Convert one checkpoint; returns the configuration of the transformer.

    The folder says `downscale_freq_shift: 0` in transformer/config.json: the original's time frequencies, which
    `load_backbone` restores; diffusers alone runs the folder with others and is 1 to 2 % off.

    Raises:
        UserError: an unreadable file, tensors missing, unexpected or mis-shaped (all are listed), more or fewer names
            than classes, another number of latent channels than the autoencoder's, or OUT in use.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another output folder or delete it")
    weights = read_checkpoint(file).weights
    config = dit_config(weights, heads)
    if names is not None and len(names) != config["num_embeds_ada_norm"]:
        raise UserError(f"{len(names)} class names were given for {config['num_embeds_ada_norm']} classes")
    part = autoencoder_of(vae)
    if part.config.get("latent_channels") != config["in_channels"]:
        raise UserError(
            f"{file} takes latents of {config['in_channels']} channels and {vae} makes "
            f"{part.config['latent_channels']}; name the autoencoder that the DiT was trained on"
        )
    _write(out, build(weights, config, file), part, names)
    return config


def build(weights: dict[str, Tensor], config: dict[str, Any], file: Path) -> DiTTransformer2DModel:
    """The transformer of diffusers with the checkpoint's weights.

    Raises:
        UserError: tensors missing, unexpected or mis-shaped, all of them listed.
    """
    with torch.random.fork_rng(devices=[]):
        model = DiTTransformer2DModel(**config)
    check_positions(weights, model.pos_embed.pos_embed)
    found, wanted = dit_weights(weights), model.state_dict()
    problems = [f"missing for {key}" for key in wanted if key not in found]
    problems += [f"unexpected for {key}" for key in found if key not in wanted]
    problems += [
        f"mis-shaped for {key} ({list(found[key].shape)}, expected {list(value.shape)})"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    if problems:
        raise UserError(f"{file} does not hold the tensors of a DiT: {'; '.join(problems)}")
    model.load_state_dict(found)
    return model


def _write(out: Path, model: DiTTransformer2DModel, vae: Component, names: Sequence[str] | None) -> None:
    """All files of the folder, or none."""
    fresh = fresh_folder(out)
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh / "transformer")
    config = fresh / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"downscale_freq_shift": 0}, indent=2) + "\n")
    # Peebles & Xie 2023, section 4: the schedule of ADM
    DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False).save_pretrained(
        fresh / "scheduler"
    )
    (fresh / "vae").mkdir()
    for path in (vae.folder / "config.json", *vae.weights):
        shutil.copyfile(path, fresh / "vae" / path.name)
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", vae.class_name],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "id2label": {str(number): name for number, name in enumerate(names or ())},
    }
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    fresh.rename(out)
