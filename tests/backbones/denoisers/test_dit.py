"""What is special to class-conditional DiT: class names, the time embedding, old and original checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from perception.backbones import Condition, DiffusionBackbone, load_backbone
from perception.backbones.conditioning.encoders import ClassConditioner
from perception.convert.dit_names import check_positions, dit_config, dit_weights
from perception.errors import UserError

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture()
def folder(make_transformer: Callable[[str], Path]) -> Path:
    """A fresh folder that a test may change."""
    return make_transformer("dit")


def load(folder: Path) -> DiffusionBackbone:
    """load_backbone on the CPU."""
    return load_backbone(folder, device="cpu")


def shifts(backbone: DiffusionBackbone) -> set[float]:
    """downscale_freq_shift of all blocks."""
    return {block.norm1.emb.time_proj.downscale_freq_shift for block in backbone.unet.transformer_blocks}


@pytest.fixture(scope="module")
def names() -> ClassConditioner:
    """Names with synonyms, doubles, and one that is a number."""
    return ClassConditioner(5, {0: "tench, Tinca tinca", 1: "crane", 2: "T-shirt/top", 3: "crane", 4: "1"})


@pytest.mark.parametrize(
    ("prompt", "number"),
    [("tench", 0), ("Tinca Tinca", 0), ("tench, Tinca tinca", 0), (" t-shirt/top", 2), ("3", 3), ("1", 4), ("", 5)],
)
def test_classes_by_name_and_number(names: ClassConditioner, prompt: str, number: int) -> None:
    condition = names([prompt])
    assert condition.extra["class_labels"].tolist() == [number]
    assert condition.hidden.shape == (1, 1, 0)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("crane", r"the class name 'crane' stands for the classes \[1, 3\]; give the number instead"),
        ("5", "'5' is no class of this class-conditional backbone"),
        (
            "a tench",
            r"one of its 5 class names \(without a template around it\) or a number 0 to 4; the nearest are tench",
        ),
    ],
)
def test_what_is_no_class(names: ClassConditioner, prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        names([prompt])


def test_classes_without_names(folder: Path, edit: Callable[..., None]) -> None:
    edit(folder / "model_index.json", id2label=None)
    backbone = load(folder)
    assert backbone.class_names == ("0", "1", "2", "3", "4")
    assert backbone.condition(["4"]).extra["class_labels"].tolist() == [4]


def test_class_names_are_part_of_the_fingerprint(folder: Path, edit: Callable[..., None]) -> None:
    first = load(folder).fingerprint
    edit(folder / "model_index.json", id2label={"0": "a"})
    assert load(folder).fingerprint != first


def test_labels_cannot_be_averaged(names: ClassConditioner) -> None:
    with pytest.raises(UserError, match="class labels cannot be averaged"):
        names(["0", "1"]).averaged([[0, 1]])


def copy_embeddings(folder: Path) -> None:
    """One time and label embedding in all blocks, as conversions of the original write it."""
    weights = load_file(folder / WEIGHTS)
    for key in [k for k in weights if k.startswith("transformer_blocks.0.norm1.emb.")]:
        weights[key.replace("blocks.0", "blocks.1")] = weights[key].clone()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_time_frequencies_follow_the_origin_of_the_weights(folder: Path, edit: Callable[..., None]) -> None:
    assert shifts(load(folder)) == {1.0}, "trained in diffusers: the blocks have embeddings of their own"
    copy_embeddings(folder)
    assert shifts(load(folder)) == {0.0}, "converted: one embedding in all blocks"
    edit(folder / "transformer/config.json", downscale_freq_shift=1)
    assert shifts(load(folder)) == {1}, "what the folder says counts"


def test_transformers_of_older_diffusers(folder: Path, edit: Callable[..., None]) -> None:
    """facebook/DiT-XL-2-256 names its class Transformer2DModel and has keys that were dropped since."""
    x_t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    backbone = load(folder)
    expected = backbone.denoise(x_t, 10, backbone.condition(["0"])).raw
    old = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero", "use_linear_projection": False}
    edit(folder / "transformer/config.json", **old, only_cross_attention=False, num_vector_embeds=None)
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    again = load(folder)
    assert isinstance(again.unet, DiTTransformer2DModel)
    assert torch.equal(again.denoise(x_t, 10, again.condition(["0"])).raw, expected)
    edit(folder / "transformer/config.json", norm_type="layer_norm")
    with pytest.raises(UserError, match="whose denoiser is a Transformer2DModel; supported denoisers are"):
        load(folder)


def test_the_null_class_is_the_last_row(folder: Path) -> None:
    backbone = load(folder)
    rows = backbone.unet.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    assert backbone.condition([""]).extra["class_labels"].tolist() == [len(rows) - 1]


def test_labels_are_needed(folder: Path) -> None:
    with pytest.raises(UserError, match="a class-conditional backbone needs class labels"):
        load(folder).denoise(torch.zeros(1, 4, 16, 16), 3, Condition(torch.zeros(1, 1, 0)))


def original(depth: int = 2) -> dict[str, Tensor]:
    """Weights of a small DiT in the names of facebookresearch/DiT."""
    generator, width = torch.Generator().manual_seed(0), 24
    shapes = {"x_embedder.proj": (width, 4, 2, 2), "final_layer.linear": (32, width)}
    shapes |= {"t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width)}
    shapes |= {"final_layer.adaLN_modulation.1": (2 * width, width)}
    for i in range(depth):
        shapes |= {f"blocks.{i}.attn.qkv": (3 * width, width), f"blocks.{i}.attn.proj": (width, width)}
        shapes |= {f"blocks.{i}.mlp.fc1": (4 * width, width), f"blocks.{i}.mlp.fc2": (width, 4 * width)}
        shapes |= {f"blocks.{i}.adaLN_modulation.1": (6 * width, width)}
    weights = {f"{k}.weight": torch.randn(s, generator=generator) for k, s in shapes.items()}
    weights |= {f"{k}.bias": torch.randn(s[0], generator=generator) for k, s in shapes.items()}
    weights["y_embedder.embedding_table.weight"] = torch.randn(6, width, generator=generator)
    return weights | {"pos_embed": DiTTransformer2DModel(2, 12, sample_size=16, num_layers=1).pos_embed.pos_embed}


def test_original_names() -> None:
    weights = original()
    config = dit_config(weights, heads=2)
    assert config["num_layers"] == 2 and config["sample_size"] == 16 and config["num_embeds_ada_norm"] == 5
    model = DiTTransformer2DModel(**config)
    model.load_state_dict(dit_weights(weights), strict=True)
    check_positions(weights, model.pos_embed.pos_embed)
    attention = model.transformer_blocks[1].attn1
    stacked = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
    assert torch.equal(stacked, weights["blocks.1.attn.qkv.weight"])


def test_what_is_no_original_checkpoint() -> None:
    weights = original()
    with pytest.raises(UserError, match=r"these are no weights of an original DiT: x_embedder.proj.weight, pos_embed"):
        dit_config({})
    with pytest.raises(UserError, match="a DiT of width 24 is none of the published ones"):
        dit_config(weights)
    with pytest.raises(UserError, match=r"unexpected keys in a DiT checkpoint: blocks.0.other.weight, extra"):
        dit_weights(weights | {"extra": torch.ones(1), "blocks.0.other.weight": torch.ones(1)})
    with pytest.raises(UserError, match="pos_embed is not the sine-cosine table"):
        check_positions(weights, weights["pos_embed"] + 0.1)
