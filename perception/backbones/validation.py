"""Checks of a diffusers model folder that run before any weight is read; all findings in one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.errors import UserError

# component -> classes this toolkit can drive
SUPPORTED: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
_REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SECOND = ("text_encoder_2", "tokenizer_2")  # SDXL has both
_STEMS = {"text_encoder": "model", "text_encoder_2": "model"}  # transformers; diffusers' is the default below
_VARIANTS = ("", "fp16", "bf16")


@dataclass(frozen=True)
class Component:
    """A model of the folder: where it lies, what it is, which files hold its weights."""

    folder: Path
    class_name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    variant: str | None  # "fp16" where only such files exist


@dataclass(frozen=True)
class ModelFolder:
    """A checked diffusers folder."""

    path: Path
    models: Mapping[str, Component]  # unet, vae, text_encoder and, for SDXL, text_encoder_2
    tokenizers: tuple[tuple[str, Path], ...]  # (class name, folder), one per text encoder
    scheduler: tuple[str, Path]


def check_model_folder(path: Path, vae: Component | None = None) -> ModelFolder:
    """Read all configs of `path`, compare them with each other and with the weight files' headers.

    Args:
        path: a folder with a model_index.json.
        vae: another autoencoder, used instead of the folder's own.

    Raises:
        UserError: naming everything that is missing, truncated, unsupported or inconsistent.
    """
    problems: list[str] = []
    index = _index(path)
    names = [n for n in (*_REQUIRED, *_SECOND) if n in _REQUIRED or index.get(n, [None])[0]]
    absent = [name for name in names if not index.get(name, [None])[-1]]
    if absent:
        raise UserError(
            f"{path} holds a {index.get('_class_name', 'pipeline')} without {', '.join(absent)}; "
            "supported are folders of the Stable Diffusion 1.x, 2.x and XL kind (unet, vae, text_encoder, ...)"
        )
    models = {
        name: vae if name == "vae" and vae else read_component(path / name, name, problems, index[name][-1])
        for name in names
        if name in SUPPORTED
    }
    tokenizers = tuple((index[n][-1], path / n) for n in names if n.startswith("tokenizer"))
    for class_name, folder in tokenizers:
        problems += _tokenizer_problems(class_name, folder)
    _read_json(path / "scheduler" / "scheduler_config.json", problems)
    if not problems:
        problems += _disagreements({name: component.config for name, component in models.items()})
    if problems:
        raise unusable(path, problems)
    return ModelFolder(path, models, tokenizers, (index["scheduler"][-1], path / "scheduler"))


def unusable(path: Path, problems: list[str]) -> UserError:
    """The one error for all that is wrong with a model folder."""
    return UserError(
        f"the model folder {path} cannot be used: {'; '.join(problems)}; "
        "download or save the model again (pipeline.save_pretrained writes a complete folder)"
    )


def read_component(folder: Path, name: str, problems: list[str], class_name: str | None = None) -> Component:
    """Config, class and weight files of one model; what is wrong is appended to `problems`."""
    config = _read_json(folder / "config.json", problems)
    # transformers writes `architectures`, diffusers `_class_name`
    found = config.get("_class_name") or (config.get("architectures") or [class_name])[0]
    if config and class_name and found != class_name:
        problems.append(f"model_index.json says {name} is a {class_name}, its config.json a {found}")
    if config and found not in SUPPORTED[name]:
        problems.append(f"{name} is a {found}, supported is {' or '.join(SUPPORTED[name])}")
    weights, variant = _weight_files(folder, name, problems)
    return Component(folder, str(found), config, weights, variant)


def _tokenizer_problems(class_name: str, folder: Path) -> list[str]:
    if class_name not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        return [f"{folder.name} is a {class_name}, supported is CLIPTokenizer"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return [f"{folder.name}/tokenizer.json (or vocab.json) is missing"]
    return []


def _index(path: Path) -> dict[str, Any]:
    problems: list[str] = []
    if not path.is_dir():
        raise UserError(f"the model folder {path} does not exist; expected a diffusers folder, a hub id or 'mini'")
    if not (path / "model_index.json").is_file():
        raise UserError(
            f"{path} has no model_index.json, so it is not a diffusers model folder; pass the folder that holds unet/, "
            "vae/, ..., or convert a single-file checkpoint with diffusers' from_single_file(...).save_pretrained"
        )
    index = _read_json(path / "model_index.json", problems)
    if problems:
        raise unusable(path, problems)
    if "unet" not in index and "transformer" in index:
        raise UserError(
            f"{path} holds a {index.get('_class_name')} whose denoiser is a {index['transformer'][-1]}; "
            f"supported denoisers are {', '.join(SUPPORTED['unet'])} (Stable Diffusion 1.x, 2.x, XL)"
        )
    return index


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(f"{path.parent.name}/{path.name} is missing or unreadable")
        return {}
    except ValueError:
        problems.append(f"{path.parent.name}/{path.name} is not valid JSON")
        return {}
    return value if isinstance(value, dict) else {}


def _weight_files(folder: Path, name: str, problems: list[str]) -> tuple[tuple[Path, ...], str | None]:
    """The safetensors files of a component and their variant, each checked to be complete."""
    stem = _STEMS.get(name, "diffusion_pytorch_model")
    for variant in _VARIANTS:
        dot = f".{variant}" if variant else ""
        single, sharded = folder / f"{stem}{dot}.safetensors", folder / f"{stem}.safetensors.index{dot}.json"
        if single.is_file():
            files = (single,)
        elif sharded.is_file():
            shards = _read_json(sharded, problems).get("weight_map", {})
            files = tuple(folder / shard for shard in sorted(set(shards.values())))
        else:
            continue
        problems += [text for file in files if (text := _damage(file))]
        return files, variant or None
    pickled = any(folder.glob("*.bin"))
    hint = " (only pickled .bin files are there: save them with safe_serialization=True)" if pickled else ""
    problems.append(f"the weight file {folder.name}/{stem}.safetensors is missing{hint}")
    return (), None


def _damage(file: Path) -> str | None:
    """What is wrong with a safetensors file, from its header and its size alone.

    Layout: 8 bytes header length N (little endian), N bytes JSON, then the tensors up to the largest end offset.
    """
    label = f"{file.parent.name}/{file.name}"
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                return f"the weight file {label} is truncated ({size} bytes, its header alone needs {8 + length})"
            header = json.loads(stream.read(length))
    except OSError:
        return f"the weight file {label} is missing or unreadable"
    except (struct.error, ValueError):
        return f"the weight file {label} is not a safetensors file"
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return (
            f"the weight file {label} is {'truncated' if size < expected else 'too long'}"
            f" ({size} bytes, its header says {expected})"
        )
    return None


def _disagreements(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the components' configs cannot belong to one model."""
    unet, vae = configs["unet"], configs["vae"]
    found = []
    if unet.get("in_channels") != vae.get("latent_channels"):
        found.append(
            f"the unet takes {unet.get('in_channels')} channels and the vae makes {vae.get('latent_channels')} "
            "(inpainting and image-editing models are not supported)"
        )
    texts = [configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs]
    width = sum(int(text.get("hidden_size", 0)) for text in texts)
    if unet.get("cross_attention_dim") != width:
        found.append(f"the unet attends to text of width {unet.get('cross_attention_dim')}, the encoders give {width}")
    for key in ("encoder_hid_dim_type", "class_embed_type"):
        if unet.get(key) is not None:
            found.append(f"the unet's {key} {unet[key]!r} is not supported")
    embedding = unet.get("addition_embed_type")
    if embedding not in (None, "text_time"):
        found.append(f"the unet's addition_embed_type {embedding!r} is not supported")
    if (embedding == "text_time") != (len(texts) == 2):
        found.append(f"a unet with addition_embed_type {embedding!r} does not go with {len(texts)} text encoders")
    elif embedding == "text_time":
        # pooled text and six size numbers (original, crop, target) enter the time embedding
        inputs = texts[1].get("projection_dim", 0) + 6 * (unet.get("addition_time_embed_dim") or 0)
        if unet.get("projection_class_embeddings_input_dim") != inputs:
            found.append(
                f"the unet's projection_class_embeddings_input_dim is "
                f"{unet.get('projection_class_embeddings_input_dim')}, text_encoder_2 and six sizes give {inputs}"
            )
    return found
