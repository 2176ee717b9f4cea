"""VPD against the reference: feature pyramids, attention maps, text adapters, autoencoder, class embeddings."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from perception.backbones import Condition
from perception.conditioning import IMAGENET_TEMPLATES, Conditioning, TextAdapter, class_table
from perception.encoders import VPD

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parents[1] / "goldens") / "vpd"


def files(pattern: str) -> list[Path]:
    """Fixture files of a kind; one that stands for "nothing found", which every test refuses, if there is none."""
    return sorted(ROOT.glob(pattern)) or [ROOT / f"no {pattern}"]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a fixture."""
    assert path.is_file(), f"no fixture found in {ROOT}: {path.name}"
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def error(got: Tensor, golden: Tensor) -> float:
    """max|difference| / max|golden|; the shapes must be equal."""
    assert got.shape == golden.shape
    return float((got - golden).abs().max() / golden.abs().max())


class Context(Conditioning):
    """The tokens of a fixture."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.rows, self.tokens, self.width = tokens, tokens.shape[1], tokens.shape[2]

    def forward(self, given: Sequence[Any] | None = None) -> Tensor:
        """All of them, or those whose numbers are given."""
        return self.rows if given is None else self.rows[list(given)]

    def entries(self, given: Sequence[Any] | None = None) -> list[Any]:
        """Row numbers."""
        return list(range(len(self.rows))) if given is None else list(given)

    def identity(self, given: Any = None) -> str:
        """The row number."""
        return str(given)


def scales(config: dict[str, Any], stride: int) -> dict[str, tuple[Any, ...]]:
    """The reference's options as ours: layers of N <= max_size^2 cells at the base size, max_size = base_size / 16."""
    if not config.get("use_attn", True):
        return {"map_strides": ()}
    limit = config.get("max_attn_size") or config["base_size"] // 16
    levels = [stride, 2 * stride, 4 * stride]
    places = config.get("attn_selector", "up_cross+down_cross").split("+")
    return {
        "map_strides": tuple(s for s in levels if config["base_size"] // s <= limit),
        "map_places": tuple(place.removesuffix("_cross") for place in places),
    }


@pytest.mark.parametrize("path", files("features_*.safetensors"), ids=lambda path: path.stem)
def test_features(tiny_backbone, path):
    golden, metadata = read(path)
    options = scales(json.loads(metadata["config"]), tiny_backbone.latent_stride)
    text = Context(golden["context"])
    network = VPD(tiny_backbone, text, timestep=int(metadata["timestep"]), latent_scale=1.0, **options)
    pyramid = network.eval()(latents=golden["latents"])
    assert network.channels == tuple(value.shape[1] for value in pyramid)
    assert sum(name.startswith("out") for name in golden) == len(pyramid)
    for level, value in enumerate(pyramid):
        assert error(value, golden[f"out{level}"]) <= 2e-5


@pytest.mark.parametrize("path", files("features_*.safetensors"), ids=lambda path: path.stem)
def test_attention_of_single_layers(tiny_backbone, path):
    golden, metadata = read(path)
    wanted = sorted(name for name in golden if name.startswith("raw_"))
    assert bool(wanted) == json.loads(metadata["config"]).get("use_attn", True)
    for place in ("down", "mid", "up"):
        recorded = [name for name in wanted if f"_{place}_" in name]
        layers = [n for n, tap in tiny_backbone.taps.items() if tap.kind == "cross_attention" and n.startswith(place)]
        with torch.no_grad():
            maps = tiny_backbone.capture(
                golden["latents"], int(metadata["timestep"]), Condition(golden["context"]), layers
            )
        # the reference keeps layers of few cells, numbered in the order in which they run
        kept = [m for m in maps.values() if m[0, 0].numel() in {golden[name].shape[1] for name in recorded}]
        assert len(kept) == len(recorded)
        for number, value in enumerate(kept):
            assert error(value.flatten(2).transpose(1, 2), golden[f"raw_{place}_cross_{number}"]) <= 2e-5


@pytest.mark.parametrize("path", files("adapter_*.safetensors"), ids=lambda path: path.stem)
def test_text_adapters(path):
    golden, _ = read(path)
    variants = sorted({name.split(".")[0] for name in golden if ".fc." in name})
    assert variants
    for variant in variants:
        parts = {name.split(".", 1)[1]: golden[name] for name in golden if name.startswith(f"{variant}.")}
        shared = variant.split("_")[0]  # a variant of another hidden width has the same texts and gamma
        texts, gamma = (golden.get(f"{variant}.{name}", golden[f"{shared}.{name}"]) for name in ("texts", "gamma"))
        hidden, width = parts["fc.0.weight"].shape
        adapter = TextAdapter(width, hidden)
        state = {name: value for name, value in parts.items() if name.startswith("fc.")}
        adapter.load_state_dict({**state, "gamma": gamma})
        out = parts["out"]
        with torch.no_grad():
            if texts.dim() == 2:  # a class table is told to every image, a room to its own
                texts = texts.unsqueeze(1) if out.shape[1] == 1 else texts.expand(len(out), -1, -1)
            assert error(adapter(texts), out) <= 1e-6


@pytest.mark.parametrize("path", files("adapter_*.safetensors"), ids=lambda path: path.stem)
def test_latents_are_the_raw_mean(tiny_backbone, path):
    golden, _ = read(path)
    pixels = golden["vae.image_u8"].permute(0, 3, 1, 2).contiguous().float() / 255
    with torch.no_grad():
        latents = tiny_backbone.unscaled(tiny_backbone.encode(pixels))
        moments = tiny_backbone.vae.encode(pixels * 2 - 1).latent_dist.parameters  # means, then log variances
    assert error(latents, golden["vae.latents"]) <= 2e-5
    assert error(moments, golden["vae.moments"]) <= 2e-5


@pytest.mark.parametrize("path", files("class_embeddings*.safetensors"), ids=lambda path: path.stem)
def test_class_embeddings(tiny_backbone, path):
    golden, metadata = read(path)
    names, length = json.loads(metadata["names"]), int(metadata["max_length"])
    templates = IMAGENET_TEMPLATES[: int(metadata["n_templates"])]
    prompts = [template.replace("{}", names[0].replace("_", " ")) for template in templates]
    padding = {"padding": "max_length", "max_length": length, "truncation": True}
    assert tiny_backbone.tokenizer(prompts, **padding)["input_ids"] == golden["ids_first_class"].tolist()
    table = class_table(tiny_backbone, names, templates=templates, length=length, truncate=True)
    assert error(table, golden["class_embeddings"]) <= 1e-6


@pytest.mark.parametrize("path", files("class_embeddings*.safetensors"), ids=lambda path: path.stem)
def test_pooled_and_unpooled_text(tiny_backbone, path):
    golden, _ = read(path)
    sentences = ["a photo of a cat", "the man on the left"]  # named by the fixtures' README
    (length,) = {int(name.rsplit("_", 1)[1]) for name in golden if name.startswith("pooled_")}
    hidden = tiny_backbone.condition(sentences, length=length).hidden
    assert error(hidden, golden[f"seq_unpooled_{length}"]) <= 1e-6
    pooled = class_table(tiny_backbone, sentences, templates=("{}",), length=length)
    assert error(pooled, golden[f"pooled_{length}"]) <= 1e-6
