"""Turning trained parts into a diffusers folder, and measuring what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from perception.data.files import replacing_folder
from perception.data.world import TEN_OBJECTS
from recipes.mini.denoiser import TextToNoise, noise_schedule

SAMPLE_PROMPTS = {
    "clear": "a photo of a street on a clear day.",
    "night": "a photo of a street at night.",
    "fog": "a photo of a street in fog.",
    "rain": "a photo of a street in rain.",
    "snow": "a photo of a street in snow.",
    **{name: f"a photo of a {name}." for name in TEN_OBJECTS[:5]},
}


def assemble(vae: AutoencoderKL, model: TextToNoise, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as an ordinary Stable Diffusion pipeline."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_folder(pipeline: StableDiffusionPipeline, folder: Path) -> int:
    """Write the pipeline as fp16 safetensors, replacing `folder` only when all is written; returns its bytes."""
    pipeline.tokenizer.backend_tokenizer.no_truncation()  # what the last call asked for is not part of the tokenizer
    pipeline.tokenizer.backend_tokenizer.no_padding()
    with replacing_folder(folder) as fresh:
        pipeline.to(dtype=torch.float16).save_pretrained(fresh)
        pipeline.to(dtype=torch.float32)
        for config in fresh.rglob("*config.json"):
            _drop_local_paths(config)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _drop_local_paths(config: Path) -> None:
    """Remove the folder names that diffusers and transformers note in configs."""
    content: dict[str, Any] = json.loads(config.read_text())
    kept = {key: value for key, value in content.items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def sample_sheet(
    pipeline: StableDiffusionPipeline, columns: int, steps: int = 30, guidance: float = 3.0
) -> NDArray[np.uint8]:
    """Samples of every domain and of five objects: one row per prompt, [rows*128, columns*128, 3]."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for number, prompt in enumerate(SAMPLE_PROMPTS.values()):
        generators = [torch.Generator().manual_seed(1000 * number + column) for column in range(columns)]
        pictures = pipeline(
            [prompt] * columns,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
            height=128,
            width=128,
        ).images
        rows.append(np.concatenate(list(pictures), axis=1))
    return (np.concatenate(rows) * 255).round().astype(np.uint8)
