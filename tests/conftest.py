"""Fixtures shared by all tests: where the goldens are, the tiny backbone most tests run on, and one of every kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from perception.backbones import DiffusionBackbone, load_backbone
from perception.backbones.shipped import MINI

SHIPPED = ("mini",) if (MINI / "model_index.json").is_file() else ()
LONG = ("test_ray_kill", "test_engines", "test_waterfall", "test_command_kill", "test_distributed")
KINDS = ("sd1", "sd2_v_prediction", "sdxl", "tiny_autoencoder", *SHIPPED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of a minute or more come first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_configure() -> None:
    """One thread, here and in processes that tests start: equal sums are then equal bit for bit."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Root of the golden fixtures: tests/goldens, or the folder named by PERCEPTION_GOLDENS."""
    return Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def tiny_sd(goldens: Path) -> Path:
    """A diffusers folder of Stable Diffusion 1.x layout with tiny random weights."""
    return goldens / "tiny-sd"


@pytest.fixture(scope="session")
def tiny_backbone(tiny_sd: Path) -> DiffusionBackbone:
    """tiny-sd in float32 on the CPU; shared by the session, so leave it as it is."""
    return load_backbone(tiny_sd, device="cpu")


def edit_json(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _unet(**options: object) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return UNet2DConditionModel(sample_size=16, norm_num_groups=8, **options)


def make_sd2(folder: Path) -> None:
    """SD 2.x: linear projections, heads per level, v-prediction."""
    _unet(
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(1, 2, 4, 4),
        use_linear_projection=True,
    ).save_pretrained(folder / "unet")
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")


def make_sdxl(folder: Path) -> None:
    """SDXL: three levels, none of the first attends, two text encoders, pooled text and sizes in the time embedding."""
    _unet(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=32 + 24,
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    ).save_pretrained(folder / "unet")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    second = CLIPTextConfig(**(config | {"hidden_size": 24, "projection_dim": 20, "hidden_act": "gelu"}))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        CLIPTextModelWithProjection(second).save_pretrained(folder / "text_encoder_2")
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    edit_json(folder / "vae" / "config.json", scaling_factor=0.13025)
    edit_json(
        folder / "model_index.json",
        _class_name="StableDiffusionXLPipeline",
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
        force_zeros_for_empty_prompt=True,
    )


def make_tiny_autoencoder(folder: Path) -> None:
    """An AutoencoderTiny (four levels) in place of the AutoencoderKL."""
    shutil.rmtree(folder / "vae")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        ).save_pretrained(folder / "vae")
    edit_json(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])


@pytest.fixture(scope="session")
def make_folder(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function kind -> a fresh, writable model folder of that kind."""
    makers = {"sd2_v_prediction": make_sd2, "sdxl": make_sdxl, "tiny_autoencoder": make_tiny_autoencoder}

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind) / "model"
        shutil.copytree(tiny_sd, folder)
        if kind in makers:
            makers[kind](folder)
        return folder

    return make


@pytest.fixture(scope="session", params=KINDS)
def any_folder(request: pytest.FixtureRequest, make_folder: Callable[[str], Path]) -> Path:
    """A model folder of every kind; read only."""
    return MINI if request.param == "mini" else make_folder(request.param)


@pytest.fixture(scope="session")
def any_backbone(any_folder: Path) -> DiffusionBackbone:
    """A backbone of every kind, float32 on the CPU; leave it as it is."""
    return load_backbone(any_folder, device="cpu")


@pytest.fixture(scope="session")
def edit() -> Callable[..., None]:
    """Function (path, **changes) that changes keys of a JSON file."""
    return edit_json


@pytest.fixture(scope="session")
def make_clip(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Function seed -> a fresh folder: a tiny CLIPModel with random weights and the tokenizer of tiny-sd."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tower | {"vocab_size": 1538, "bos_token_id": 1536, "eos_token_id": 1537, "pad_token_id": 1537}
    config = CLIPConfig(text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("clip") / "clip"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            CLIPModel(config).save_pretrained(folder)
        CLIPProcessor(image_processor, CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip: Callable[[int], Path]) -> Path:
    """One of them; read only."""
    return make_clip(3)
