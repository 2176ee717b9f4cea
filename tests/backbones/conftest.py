"""What the tests of this folder share: images, and tiny random model folders of every transformer family.

The folders are written by the real pipelines' `save_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
CLASSES = {0: "tench, Tinca tinca", 1: "crane", 2: "T-shirt/top", 3: "crane", 4: "7"}
T5_WIDTH = 48


def autoencoder(**options: Any) -> AutoencoderKL:
    """Factor 8, 4 latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        **options,
    )


def clip_config(width: int, projection: int) -> CLIPTextConfig:
    """Two layers over the vocabulary of tiny-sd."""
    return CLIPTextConfig(
        vocab_size=1538,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=projection,
        bos_token_id=1536,
        eos_token_id=1537,
        pad_token_id=1537,
    )


def t5() -> T5EncoderModel:
    """Two layers."""
    return T5EncoderModel(T5Config(vocab_size=200, d_model=T5_WIDTH, d_kv=12, d_ff=64, num_layers=2, num_heads=4))


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model of letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*pieces, *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")], extra_ids=2)


def dit(tokenizer: CLIPTokenizer, vae: bool = True, channels: int = 4, learned_sigma: bool = True) -> DiTPipeline:
    """Two blocks, latents 16 x 16, five classes."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels * (1 + learned_sigma),
        num_layers=2,
        sample_size=16,
        patch_size=2 if vae else 4,
        num_embeds_ada_norm=len(CLASSES),
    )
    return DiTPipeline(transformer, autoencoder() if vae else None, DDIMScheduler(**LINEAR))


def pixart(tokenizer: CLIPTokenizer, kind: Any, sizes: bool) -> Any:
    """Two blocks; alpha at 1024 px is told the size of the image."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=16,
        caption_channels=T5_WIDTH,
        use_additional_conditions=sizes,
    )
    return kind(t5_tokenizer(), t5(), autoencoder(), transformer, DPMSolverMultistepScheduler(**LINEAR))


def sd3(tokenizer: CLIPTokenizer, with_t5: bool = True, **options: Any) -> StableDiffusion3Pipeline:
    """Two joint blocks, shift 3."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=24,
        pooled_projection_dim=8 + 12,
        pos_embed_max_size=24,
        **options,
    )
    return StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        autoencoder(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        CLIPTextModelWithProjection(clip_config(16, 8)),
        tokenizer,
        CLIPTextModelWithProjection(clip_config(24, 12)),
        tokenizer,
        t5() if with_t5 else None,
        t5_tokenizer() if with_t5 else None,
    )


def flux(tokenizer: CLIPTokenizer, guidance: bool) -> FluxPipeline:
    """One double-stream and two single-stream blocks; dev has guidance and a shift that depends on the size."""
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance)
    vae = autoencoder(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return FluxPipeline(scheduler, vae, CLIPTextModel(clip_config(16, 8)), tokenizer, t5(), t5_tokenizer(), transformer)


PIPELINES: Mapping[str, Callable[[CLIPTokenizer], Any]] = {
    "dit": dit,
    "dit_pixels": lambda tokenizer: dit(tokenizer, vae=False, channels=1, learned_sigma=False),
    "dit_rgb": lambda tokenizer: dit(tokenizer, vae=False, channels=3),
    "pixart_alpha": lambda tokenizer: pixart(tokenizer, PixArtAlphaPipeline, sizes=True),
    "pixart_sigma": lambda tokenizer: pixart(tokenizer, PixArtSigmaPipeline, sizes=False),
    "sd3": sd3,
    "sd3_without_t5": lambda tokenizer: sd3(tokenizer, with_t5=False),
    "sd35": lambda tokenizer: sd3(tokenizer, qk_norm="rms_norm", dual_attention_layers=(0,)),
    "flux_dev": lambda tokenizer: flux(tokenizer, guidance=True),
    "flux_schnell": lambda tokenizer: flux(tokenizer, guidance=False),
}


def make_family(kind: str, folder: Path, tiny_sd: Path) -> None:
    """Write a folder of one kind; the weights are a function of the kind alone."""
    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        pipeline = PIPELINES[kind](tokenizer)
        for parameter in pipeline.transformer.parameters():  # no block is the identity, no output zero
            torch.nn.init.normal_(parameter, std=0.2)
    pipeline.save_pretrained(folder)
    if kind.startswith("dit"):  # diffusers reads id2label and does not write it
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(number): name for number, name in CLASSES.items()}
        (folder / "model_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three images [3, 3, 64, 72] in [0, 1]; the width is a multiple of 8 but not of 64."""
    return torch.rand(3, 3, 64, 72, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def make_transformer(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function kind -> a fresh, writable model folder of a transformer family (`families.PIPELINES`)."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind) / "model"
        make_family(kind, folder, tiny_sd)
        return folder

    return make
