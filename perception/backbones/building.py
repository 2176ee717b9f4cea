"""Instantiating the models of a checked folder, with their weights or with random ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from transformers.utils import logging as transformers_logging

from perception.backbones.validation import Component, fail


def build_model(name: str, part: Component, dtype: torch.dtype, random_init_seed: int | None) -> nn.Module:
    """One model (`name` is its place in the folder: "unet", "vae", ...) in `dtype`, on the CPU.

    Raises:
        UserError: when weights are missing, unexpected or mis-shaped, listing every key.
    """
    is_diffusers = hasattr(diffusers, part.class_name)
    cls: Any = getattr(diffusers if is_diffusers else transformers, part.class_name)
    if dtype == torch.float16 and part.class_name == "AutoencoderKL" and part.config.get("force_upcast", True):
        dtype = torch.float32
    if random_init_seed is not None:
        config = dict(part.config) if is_diffusers else cls.config_class.from_pretrained(part.folder)
        return randomize(cls.from_config(config) if is_diffusers else cls(config), f"{random_init_seed}/{name}").to(
            dtype
        )
    options = {"torch_dtype" if is_diffusers else "dtype": dtype, "variant": part.variant, "use_safetensors": True}
    with _no_progress_bar():
        try:
            model, info = cls.from_pretrained(part.folder, output_loading_info=True, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            fail(part.folder, [f"its weights do not fit its config ({reason})"])
            raise
    fail(part.folder, _key_problems(info))
    return model


def randomize(model: nn.Module, seed: str) -> nn.Module:
    """Draw every parameter anew from a generator seeded with `seed`; returns `model`.

    Linear and convolution layers as PyTorch initialises them (uniform, bound 1 / sqrt(fan in)), norms to the identity,
    embeddings and free parameters N(0, 0.02^2).
    """
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little", signed=True))
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    with torch.no_grad():
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                if isinstance(module, layers):
                    bound = 1 / math.sqrt(module.weight[0].numel())
                    parameter.uniform_(-bound, bound, generator=generator)
                elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                    parameter.fill_(1.0 if key == "weight" else 0.0)
                else:
                    parameter.normal_(0.0, 0.02, generator=generator)
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
def _no_progress_bar() -> Iterator[None]:
    """Loading a local folder takes no time worth a progress bar of transformers."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
