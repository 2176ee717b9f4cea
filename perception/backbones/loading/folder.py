"""Checks of a diffusers model folder that run before any weight is read; all findings in one sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.backbones.loading.config_rules import config_problems
from perception.backbones.loading.families import AUTOENCODERS, DENOISERS, FAMILIES, LEGACY, Family, class_in, family_of
from perception.backbones.loading.schedulers import scheduler_problems
from perception.backbones.loading.weight_files import damage
from perception.data.documents import DocumentError, read_document
from perception.errors import UserError, foreign_errors

_TOKENIZER_FILES = ("gguf_file", "fast_tokenizer_files", "init_inputs", "auto_map")  # code, or other files
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
    scheduler: tuple[str, Mapping[str, Any]]  # class name, content of scheduler_config.json
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
    names = [n for n in parts if n not in family.optional or n in given or class_in(index, n)]
    absent = [name for name in names if name not in given and not class_in(index, name)]
    if absent:
        raise UserError(
            f"{path} holds a {index.get('_class_name', 'pipeline')} without {', '.join(absent)}; "
            f"a folder of the {family.title} kind has {', '.join(parts)}"
        )
    models = {
        name: vae
        if name == "vae" and vae
        else read_component(path / name, name, problems, class_in(index, name), classes)
        for name, classes in family.models.items()
        if name in names
    }
    tokenizers = {name: (str(class_in(index, name)), path / name) for name in family.tokenizers if name in names}
    for name, (class_name, folder) in tokenizers.items():
        problems += _tokenizer_problems(class_name, folder, family.tokenizers[name])
    scheduler = (str(class_in(index, "scheduler")), _read_json(path / "scheduler" / "scheduler_config.json", problems))
    problems += scheduler_problems(*scheduler)
    labels = _labels(index, problems)
    if not problems:
        with foreign_errors(lambda reason: unusable(path, [f"its configs do not fit together ({reason})"])):
            problems += family.disagreements({name: component.config for name, component in models.items()})
    if problems:
        raise unusable(path, problems)
    zeros = "StableDiffusionXL" in str(index.get("_class_name")) and index.get("force_zeros_for_empty_prompt", True)
    return ModelFolder(path, str(index.get("_class_name")), family, models, tokenizers, scheduler, labels, bool(zeros))


def _labels(index: Mapping[str, Any], problems: list[str]) -> dict[int, str]:
    """`id2label` of class-conditional pipelines: {"0": "tench, Tinca tinca", ...}."""
    found = index.get("id2label") or {}
    if not isinstance(found, dict) or not all(
        k.isdecimal() and len(k) < 7 and isinstance(v, str) for k, v in found.items()
    ):
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
    found = _class_of(config) or class_name
    if config and class_name and found != class_name:
        problems.append(f"model_index.json says {name} is a {class_name[:80]}, its config.json a {found}")
    if found == LEGACY and name == "transformer":
        found = supported[0]
    if config and found not in supported:
        problems.append(f"{name} is a {found}, supported is {' or '.join(supported)}")
    elif config:
        problems += [f"in {name}/config.json {problem}" for problem in config_problems(str(found), config)]
    weights, variant = _weight_files(folder, name, problems)
    return Component(folder, str(found), config, weights, variant)


def _class_of(config: Mapping[str, Any]) -> str | None:
    """The class that a config.json names: transformers writes `architectures`, diffusers `_class_name`."""
    listed = config.get("architectures")
    found = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None)
    return found[:80] if isinstance(found, str) else None


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
        content = _read_json(file, problems)
        refused = [key for key in _TOKENIZER_FILES if file.name == "tokenizer_config.json" and content.get(key)]
        problems += [f"{folder.name}/{file.name} has {key}, which is not supported" for key in refused]
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
            f"{path} holds a {index.get('_class_name')} whose denoiser is a {class_in(index, 'transformer')}; "
            f"supported denoisers are {', '.join(DENOISERS)} ({titles})"
        )
    return index, family


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    label = f"{path.parent.name}/{path.name}"
    try:
        value = read_document(path)
    except OSError:
        problems.append(f"{label} is missing or unreadable")
        return {}
    except DocumentError as error:
        problems.append(f"{label} {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{label} holds no JSON object")
        return {}
    return value


def _weight_files(folder: Path, name: str, problems: list[str]) -> tuple[tuple[Path, ...], str | None]:
    """The safetensors files of a component and their variant, each checked to be complete.

    Where there are several, the ones that diffusers loads: an index of shards comes before a single file.
    """
    of_transformers = name.startswith(("text_encoder", "clip"))
    stem = "model" if of_transformers else "diffusion_pytorch_model"
    for variant in _VARIANTS:
        dot = f".{variant}" if variant else ""
        single = folder / f"{stem}{dot}.safetensors"
        indices = [folder / f"{stem}.safetensors.index{dot}.json", folder / f"{stem}{dot}.safetensors.index.json"]
        sharded = next((index for index in indices if index.is_file()), None)
        if sharded is not None:
            files = _shards(sharded, problems)
        elif single.is_file():
            files = (single,)
        else:
            continue
        problems += [text for file in files if (text := damage(file))]
        return files, variant or None
    pickled = any(folder.glob("*.bin"))
    hint = " (only pickled .bin files are there: save them with safe_serialization=True)" if pickled else ""
    problems.append(f"the weight file {folder.name}/{stem}.safetensors is missing{hint}")
    return (), None


def _shards(index: Path, problems: list[str]) -> tuple[Path, ...]:
    """The files that an index names, which lie beside it."""
    table = _read_json(index, problems).get("weight_map")
    names = list(table.values()) if isinstance(table, dict) else []
    if not names or not all(
        isinstance(name, str) and name == Path(name).name and name not in ("", "..") for name in names
    ):
        problems.append(f"{index.parent.name}/{index.name} has no weight_map from weights to files beside it")
        return ()
    return tuple(index.parent / name for name in sorted(set(names)))
