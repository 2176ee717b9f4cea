"""Instantiating the models of a checked folder, with their weights or with random ones."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging as transformers_logging

from perception.backbones.latents import LatentCodec
from perception.backbones.loading.config_rules import class_of, known_values
from perception.backbones.loading.folder import Component, unusable
from perception.backbones.loading.weight_files import Content, content_of, parameters_of
from perception.errors import foreign_errors

Model = TypeVar("Model", bound=nn.Module)


def build_model(name: str, part: Component, dtype: torch.dtype, random_init_seed: int | None) -> nn.Module:
    """One model (`name` is its place in the folder: "unet", "vae", ...) in `dtype`, on the CPU.

    Raises:
        UserError: the config describes no model, or one that its weight files cannot fill; weights are missing,
            unexpected or mis-shaped, listing every key.
    """
    if dtype == torch.float16 and part.class_name == "AutoencoderKL" and part.config.get("force_upcast", True):
        dtype = torch.float32
    with (
        _quiet(),
        foreign_errors(lambda reason: unusable(part.folder, [f"its weights do not fit its config ({reason})"])),
    ):
        if random_init_seed is None:
            return _pretrained(part, dtype)
        return randomize(constructed(part.class_name, part.config), f"{random_init_seed}/{name}").to(dtype)


def constructed(class_name: str, config: Mapping[str, Any]) -> Any:
    """The model of a config with the constructor's own weights; under `torch.device("meta")` it takes no memory."""
    cls, is_diffusers = class_of(class_name)
    known = known_values(class_name, config)
    return cls(**known) if is_diffusers else cls(cls.config_class(**known))


def check_skeleton(name: str, part: Component) -> None:
    """Build the model of a config without memory, and let autoencoders and text encoders run, before weights are read.

    Raises:
        UserError: the config describes no model, one that does not run, or one that its weight files cannot fill.
    """
    with (
        _quiet(),
        foreign_errors(lambda reason: unusable(part.folder, [f"its config.json describes no model ({reason})"])),
    ):
        _try_skeleton(name, part.class_name, json.dumps(dict(part.config), sort_keys=True), content_of(part.weights))


@lru_cache
@torch.no_grad()
def _try_skeleton(name: str, class_name: str, config: str, content: Content) -> None:
    """Raises what the constructor or the first call of a model raises; once per process for equal configs."""
    with torch.device("meta"), parameters_of(content):
        skeleton = constructed(class_name, json.loads(config)).eval()
        if name == "vae":
            side = 8 * LatentCodec(skeleton).stride
            coded = skeleton.encode(torch.zeros(1, 3, side, side))
            latents = coded.latent_dist.mean if hasattr(coded, "latent_dist") else coded.latents
            if tuple(latents.shape) != (1, skeleton.config["latent_channels"], 8, 8):
                raise ValueError(f"{side}x{side} pixels become latents of the shape {list(latents.shape[1:])}")
            skeleton.decode(latents)
        elif name.startswith("text_encoder"):
            skeleton(torch.zeros(1, 8, dtype=torch.long))


def _pretrained(part: Component, dtype: torch.dtype) -> nn.Module:
    cls, is_diffusers = class_of(part.class_name)
    if is_diffusers:
        model, info = cls.from_pretrained(
            part.folder,
            variant=part.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            torch_dtype=dtype,
        )
    else:  # given its weights, transformers opens no file of the folder, such as adapters or other configs
        weights = {key: value for file in part.weights for key, value in load_file(file).items()}
        model, info = cls.from_pretrained(
            None,
            config=cls.config_class(**known_values(part.class_name, part.config)),
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in `info`, where diffusers raises
            dtype=dtype,
        )
    if problems := _key_problems(info):
        raise unusable(part.folder, problems)
    return model


def randomize(model: Model, seed: str) -> Model:
    """Draw every parameter anew from a generator seeded with `seed`; returns `model`.

    Linear and convolution layers as PyTorch initialises them (uniform, bound 1 / sqrt(fan in)), norms to the identity,
    embeddings and free parameters N(0, 0.02^2).
    """
    generator = torch.Generator(device="cpu")  # equal values on every device
    generator.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little", signed=True))
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    with torch.no_grad():
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                if isinstance(module, layers):
                    bound = 1 / math.sqrt(module.weight[0].numel())
                    drawn = torch.empty_like(parameter, device="cpu").uniform_(-bound, bound, generator=generator)
                    parameter.copy_(drawn)
                elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                    parameter.fill_(1.0 if key == "weight" else 0.0)
                else:
                    drawn = torch.empty_like(parameter, device="cpu").normal_(0.0, 0.02, generator=generator)
                    parameter.copy_(drawn)
    return model


def _key_problems(info: Mapping[str, Any]) -> list[str]:
    """Keys that were missing, unexpected or mis-shaped, from the loaders' own report."""
    titles = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "mis-shaped"}
    return [
        f"{title} weights: {', '.join(sorted(str(key) for key in info[name]))}"
        for name, title in titles.items()
        if info.get(name)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """What the loaders have to say about weights is raised as an error here, so they need not log it."""
    loggings = (transformers_logging, diffusers_logging)
    before = [logging.get_verbosity() for logging in loggings]
    bars = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    for logging in loggings:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, verbosity in zip(loggings, before, strict=True):
            logging.set_verbosity(verbosity)
        for logging in bars:
            logging.enable_progress_bar()
