"""Checks of a diffusers model folder that run before any weight is read; all findings in one sentence."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.backbones.families import AUTOENCODERS, DENOISERS, FAMILIES, LEGACY, Family, family_of
from perception.errors import UserError

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
    pipeline: str  # its class, as model_index.json has it
    family: Family
    models: Mapping[str, Component]  # component -> model: the denoiser, vae, text encoders
    tokenizers: Mapping[str, tuple[str, Path]]  # component -> (class name, folder), one per text encoder
    scheduler: tuple[str, Path]
    classes: Mapping[int, str]  # class names of a class-conditional model, as model_index.json has them
    empty_is_zeros: bool  # zeros stand for the empty prompt (SDXL, unless model_index.json says otherwise)


def check_model_folder(path: Path, vae: Component | None = None) -> ModelFolder:
    """Read all configs of `path`, compare them with each other and with the weight files' headers.

    Args:
        path: a folder with a model_index.json.
        vae: another autoencoder, used instead of the folder's own.

    Raises:
        UserError: naming everything that is missing, truncated, unsupported or inconsistent.
    """
    problems: list[str] = []
    index, family = _index(path)
    parts = [*family.models, *family.tokenizers, "scheduler"]
    given = {"vae"} if vae else set()
    names = [n for n in parts if n not in family.optional or n in given or _class_in(index, n)]
    absent = [name for name in names if name not in given and not _class_in(index, name)]
    if absent:
        raise UserError(
            f"{path} holds a {index.get('_class_name', 'pipeline')} without {', '.join(absent)}; "
            f"a folder of the {family.title} kind has {', '.join(parts)}"
        )
    models = {
        name: vae if name == "vae" and vae else read_component(path / name, name, problems, index[name][-1], classes)
        for name, classes in family.models.items()
        if name in names
    }
    tokenizers = {name: (index[name][-1], path / name) for name in family.tokenizers if name in names}
    for name, (class_name, folder) in tokenizers.items():
        problems += _tokenizer_problems(class_name, folder, family.tokenizers[name])
    _read_json(path / "scheduler" / "scheduler_config.json", problems)
    labels = _labels(index, problems)
    if not problems:
        problems += family.disagreements({name: component.config for name, component in models.items()})
    if problems:
        raise unusable(path, problems)
    scheduler = (index["scheduler"][-1], path / "scheduler")
    zeros = "StableDiffusionXL" in str(index.get("_class_name")) and index.get("force_zeros_for_empty_prompt", True)
    return ModelFolder(path, str(index.get("_class_name")), family, models, tokenizers, scheduler, labels, bool(zeros))


def _class_in(index: Mapping[str, Any], name: str) -> str | None:
    """The class that model_index.json names for a component; diffusers writes [null, null] for an absent one."""
    entry = index.get(name)
    return entry[-1] if isinstance(entry, list) and entry else None


def _labels(index: Mapping[str, Any], problems: list[str]) -> dict[int, str]:
    """`id2label` of class-conditional pipelines: {"0": "tench, Tinca tinca", ...}."""
    found = index.get("id2label") or {}
    if not isinstance(found, dict) or not all(str(k).isdecimal() and isinstance(v, str) for k, v in found.items()):
        problems.append("id2label in model_index.json is not a table of class number -> name")
        return {}
    return {int(key): name for key, name in found.items()}


def unusable(path: Path, problems: list[str]) -> UserError:
    """The one error for all that is wrong with a model folder."""
    return UserError(
        f"the model folder {path} cannot be used: {'; '.join(problems)}; "
        "download or save the model again (save_pretrained writes a complete folder)"
    )


def read_component(
    folder: Path,
    name: str,  # its place in the model folder: "unet", "vae", ...; "clip": a folder of its own
    problems: list[str],  # what is wrong is appended
    class_name: str | None = None,  # what model_index.json says
    supported: tuple[str, ...] = AUTOENCODERS,
) -> Component:
    """Config, class and weight files of one model."""
    config = _read_json(folder / "config.json", problems)
    # transformers writes `architectures`, diffusers `_class_name`
    found = config.get("_class_name") or (config.get("architectures") or [class_name])[0]
    if config and class_name and found != class_name:
        problems.append(f"model_index.json says {name} is a {class_name}, its config.json a {found}")
    if found == LEGACY and name == "transformer":
        found = supported[0]
    if config and found not in supported:
        problems.append(f"{name} is a {found}, supported is {' or '.join(supported)}")
    weights, variant = _weight_files(folder, name, problems)
    return Component(folder, str(found), config, weights, variant)


def _tokenizer_problems(class_name: str, folder: Path, supported: tuple[str, ...]) -> list[str]:
    if class_name not in supported:
        return [f"{folder.name} is a {class_name}, supported is {supported[0]}"]
    files = ("tokenizer.json", "vocab.json" if supported[0].startswith("CLIP") else "spiece.model")
    present = [name for name in files if (folder / name).is_file()]
    if not present:
        return [f"{folder.name}/{files[0]} (or {files[1]}) is missing"]
    if present == ["spiece.model"] and importlib.util.find_spec("sentencepiece") is None:
        return [f"{folder.name}/spiece.model is read with the package sentencepiece: pip install sentencepiece"]
    problems: list[str] = []
    for file in sorted(folder.glob("*.json")):
        _read_json(file, problems)
    return problems


def _index(path: Path) -> tuple[dict[str, Any], Family]:
    """model_index.json, and the family it is of."""
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
    family = family_of(index, _read_json(path / "transformer" / "config.json", []))
    if family is None:
        titles = ", ".join(family.title for family in FAMILIES.values())
        raise UserError(
            f"{path} holds a {index.get('_class_name')} whose denoiser is a {_class_in(index, 'transformer')}; "
            f"supported denoisers are {', '.join(DENOISERS)} ({titles})"
        )
    return index, family


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
    of_transformers = name.startswith(("text_encoder", "clip"))
    stem = "model" if of_transformers else "diffusion_pytorch_model"
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
