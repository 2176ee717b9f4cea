"""Stable Diffusion 1.x with random weights: benchmarks of the real size without a hub."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from recipes.mini.denoiser import noise_schedule
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from perception.backbones.loading.build import randomize
from perception.backbones.shipped import MINI


def write_stable_diffusion_1(folder: Path) -> Path:
    """Write the folder (fp16, 2.1 GB) and return it; prompts use the tokenizer of `mini`."""
    tokenizer = CLIPTokenizer.from_pretrained(MINI / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    models = {name: randomize(model, f"0/{name}") for name, model in (("unet", unet), ("vae", vae), ("text", text))}
    pipeline = StableDiffusionPipeline(
        vae=models["vae"],
        text_encoder=models["text"],
        tokenizer=tokenizer,
        unet=models["unet"],
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    return folder
