"""Instantiating the models of a checked folder, with their weights or with random ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from perception.backbones.validation import Component, unusable

Model = TypeVar("Model", bound=nn.Module)


def build_model(name: str, part: Component, dtype: torch.dtype, random_init_seed: int | None) -> nn.Module:
    """One model (`name` is its place in the folder: "unet", "vae", ...) in `dtype`, on the CPU.

    Raises:
        UserError: when weights are missing, unexpected or mis-shaped, listing every key.
    """
    if dtype == torch.float16 and part.class_name == "AutoencoderKL" and part.config.get("force_upcast", True):
        dtype = torch.float32
    with _quiet():
        if random_init_seed is None:
            return _pretrained(part, dtype)
        return randomize(_constructed(part), f"{random_init_seed}/{name}").to(dtype)


def _class_of(part: Component) -> tuple[Any, bool]:
    """The class, and whether it is of diffusers (else of transformers)."""
    is_diffusers = hasattr(diffusers, part.class_name)
    return getattr(diffusers if is_diffusers else transformers, part.class_name), is_diffusers


def _constructed(part: Component) -> nn.Module:
    cls, is_diffusers = _class_of(part)
    return cls.from_config(dict(part.config)) if is_diffusers else cls(cls.config_class.from_pretrained(part.folder))


def _pretrained(part: Component, dtype: torch.dtype) -> nn.Module:
    cls, is_diffusers = _class_of(part)
    # transformers reports mis-shaped weights in `info`, diffusers raises
    own = {"torch_dtype": dtype} if is_diffusers else {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        model, info = cls.from_pretrained(
            part.folder, variant=part.variant, use_safetensors=True, output_loading_info=True, **own
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise unusable(part.folder, [f"its weights do not fit its config ({reason})"]) from error
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
