"""Writing a trained `mini-dit` as the diffusers folder of a DiTPipeline without autoencoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
from diffusers import DiTTransformer2DModel

from perception.data.fashion_mnist import CLASSES
from perception.data.files import replacing_folder
from recipes.mini.dit import noise_schedule


def export_dit(model: DiTTransformer2DModel, folder: Path) -> int:
    """Write the model as fp16 safetensors, replacing `folder` only when all is written; returns its bytes.

    A README.md (the model card) in `folder` is kept.
    """
    with replacing_folder(folder) as fresh:
        model.half().save_pretrained(fresh / "transformer")
        model.float()
        noise_schedule().save_pretrained(fresh / "scheduler")
        (fresh / "model_index.json").write_text(json.dumps(model_index(), indent=2) + "\n")
        if (folder / "README.md").exists():
            shutil.copy(folder / "README.md", fresh)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def model_index() -> dict[str, object]:
    """`model_index.json`: the parts as DiTPipeline names them; latents are pixels, so there is no autoencoder."""
    return {
        "_class_name": "DiTPipeline",
        "_diffusers_version": diffusers.__version__,
        "id2label": {str(number): name for number, name in enumerate(CLASSES)},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": [None, None],
    }
