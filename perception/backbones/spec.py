"""What to extract: taps, timesteps, noise. Plain data without torch modules, usable as a store key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perception.errors import UserError

TapKind = Literal["latent", "residual_block", "transformer_block", "block", "cross_attention", "self_attention"]
_NOISES = ("none", "shared", "per_image")
_AGGREGATES = ("concat", "mean", "stack")


@dataclass(frozen=True)
class Tap:
    """One place of the denoiser that features can be read from."""

    name: str  # diffusers module path, or "latent"
    kind: TapKind
    channels: int  # at the full text length; 0 for self-attention: one per spatial cell, so it depends on the image
    stride: int  # pixels of the image per cell of the map


@dataclass(frozen=True)
class FeatureSpec:
    """Which features, at which timesteps, under which noise. Lists are accepted and stored as tuples.

    The mean over several noises of a timestep has less of the noise in it (DIFT, Tang et al. 2023, section 4.2).

    Raises:
        UserError: for an empty or doubled list, a wrong type, an unknown choice, or draws without noise. Whether a
            backbone has the taps and timesteps is checked by `DiffusionBackbone.features`.
    """

    taps: tuple[str, ...]  # names out of backbone.taps
    timesteps: tuple[int, ...] = (50,)  # steps of the training schedule, 0 is the clean end
    noise: Literal["none", "shared", "per_image"] = "shared"  # none: x_t = x0; shared: one noise for all images
    seed: int = 0  # of the noise
    aggregate: Literal["concat", "mean", "stack"] = "concat"  # timesteps: [B, T*C, h, w], [B, C, h, w], [B, T, C, h, w]
    prompt: str = ""  # the text prompt of the denoiser, unless a Condition is given
    draws: int = 1  # noises per timestep, over which the features are averaged: the ensemble of DIFT is 8

    def __post_init__(self) -> None:
        for name, kind in (("taps", str), ("timesteps", int)):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise UserError(f"FeatureSpec.{name} is {value!r}; expected a non-empty list of {kind.__name__}")
            if any(not isinstance(v, kind) or isinstance(v, bool) for v in value):
                raise UserError(f"FeatureSpec.{name} is {value!r}; every entry must be of type {kind.__name__}")
            if len(set(value)) != len(value):
                raise UserError(f"FeatureSpec.{name} is {value!r}; an entry stands there twice, name each once")
            object.__setattr__(self, name, tuple(value))
        if min(self.timesteps) < 0:
            raise UserError(f"FeatureSpec.timesteps is {self.timesteps}; timesteps start at 0 (the clean end)")
        self._check_choice("noise", _NOISES)
        self._check_choice("aggregate", _AGGREGATES)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise UserError(f"FeatureSpec.seed is {self.seed!r}; expected a whole number >= 0")
        if not isinstance(self.prompt, str):
            raise UserError(f"FeatureSpec.prompt is {self.prompt!r}; expected one string for all images")
        self._check_draws()

    def _check_draws(self) -> None:
        if not isinstance(self.draws, int) or isinstance(self.draws, bool) or self.draws < 1:
            raise UserError(f"FeatureSpec.draws is {self.draws!r}; expected a whole number >= 1")
        if self.draws > 1 and self.noise == "none":
            raise UserError(
                f"FeatureSpec.draws is {self.draws}, but noise is 'none', so every draw would be the same; "
                "choose noise 'shared' or 'per_image', or leave draws out"
            )

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise UserError(f"FeatureSpec.{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")

    def to_json(self) -> dict[str, Any]:
        """Canonical JSON form: the same spec gives the same dictionary in every session and version of Python.

        A single draw is not named, so that keys of stores from before there were several stay valid.
        """
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(asdict(self).items())}
        return {key: value for key, value in values.items() if (key, value) != ("draws", 1)}


def sample_noise(seed: int, image_id: str, timestep: int, shape: Sequence[int], draw: int = 0) -> Tensor:
    """Standard normal noise of `shape`, float32 on CPU, a function of (seed, image id, timestep, draw) alone.

    Results therefore do not depend on batch size, order, workers or devices. Noise shared by all images has
    `image_id=""`; `draw` counts the noises of one timestep.
    """
    when = f"{timestep}/{draw}" if draw else f"{timestep}"
    digest = hashlib.sha256(f"{seed}\n{when}\n{image_id}".encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
