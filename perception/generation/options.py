"""How a scene is generated: one frozen table, and named presets of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from perception.errors import UserError
from perception.generation.control import ControlledRows

Border = Literal["clamp", "drop"]
Layout = Literal["overlap", "shifted"]
SolverName = Literal["ddim", "dpmsolver++", "unipc"]
HeldNoise = Literal["previous", "t_minus_1"]
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": ("overlap", "shifted"),
    "solver": ("ddim", "dpmsolver++", "unipc"),
    "border": ("clamp", "drop"),
    "held_noise": ("previous", "t_minus_1"),
    "told": ("both", "conditional", "guess"),
}


@dataclass(frozen=True)
class GenerationOptions:
    """Options of both passes. The default is exact: the reference's result without its border and noise-level bugs.

    Raises:
        UserError: naming everything that is wrong.
    """

    size: tuple[int, int] = (512, 512)  # height, width of the crop and of the image, pixels
    steps: int = 20
    guidance_scale: float = 7.5  # classifier-free guidance; 1: none
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # share of the steps that are guided, from and to
    negative_prompt: str = ""
    solver: SolverName = "ddim"
    control_scales: tuple[float, ...] = (1.0,)  # of the residuals, one per control network
    told: ControlledRows = (
        "both"  # "conditional": the unconditional half is not controlled; "guess": diffusers' guess mode
    )
    rescale: float = 2.0  # size of the second pass over the first; 1: there is no second pass
    window: int = 64  # latent cells of a side of a tile
    stride: int = 8  # latent cells between tiles of the layout "overlap"
    layout: Layout = "overlap"  # "shifted": disjoint tiles that move at every step
    border: Border = "clamp"  # "drop": the reference's, which leaves the rest uncovered and makes it 0
    tiled_base: bool = False  # the first pass in disjoint windows too, as the reference; False: in one piece
    held_area: float = 20000.0  # pixels; components above it are held on the first pass
    held_noise: HeldNoise = "previous"  # level of the held region: the next step's timestep, or the reference's t - 1
    strength: float = 1.0  # share of the steps the second pass does; below 1 it starts from the noised first pass

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}"
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        ]
        rules = {
            "size": min(self.size) >= 64 and not any(side % 8 for side in self.size),
            "steps": 1 <= self.steps <= 500,
            "guidance_scale": math.isfinite(self.guidance_scale),
            "guidance_interval": _shares(self.guidance_interval),
            "rescale": self.rescale >= 1 and not any(self.rescale * side % 8 for side in self.size),
            "window": self.window >= 4,
            "stride": 1 <= self.stride <= self.window,
            "held_area": self.held_area >= 0,
            "strength": 0 < self.strength <= 1,
        }
        problems += [f"{name} is {getattr(self, name)}: {_EXPECTED[name]}" for name, good in rules.items() if not good]
        if problems:
            raise UserError(f"the generation options are not usable: {'; '.join(problems)}")

    @property
    def large_size(self) -> tuple[int, int]:
        """Height and width of the second pass, pixels."""
        return int(self.size[0] * self.rescale), int(self.size[1] * self.rescale)

    def guided(self, step: int) -> bool:
        """Whether step 0..steps-1 uses classifier-free guidance."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low * self.steps <= step < high * self.steps

    def to_json(self) -> dict[str, Any]:
        """The table as plain JSON values, for provenance."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _shares(interval: tuple[float, ...]) -> bool:
    return len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1


_EXPECTED = {
    "size": "both sides must be multiples of 8 pixels, at least 64",
    "steps": "expected 1 to 500; with more the first step is not at pure noise",
    "guidance_scale": "expected a finite number",
    "guidance_interval": "expected two shares of the steps, 0 <= from <= to <= 1",
    "rescale": "expected 1 or more, with sides that stay multiples of 8 pixels",
    "window": "expected at least 4 latent cells",
    "stride": "expected 1 to the window",
    "held_area": "expected 0 or more pixels",
    "strength": "expected above 0, at most 1",
}

PRESETS: Mapping[str, GenerationOptions] = MappingProxyType(
    {
        "exact": GenerationOptions(),
        # bit for bit what the published code does, bugs included
        "reference": GenerationOptions(border="drop", held_noise="t_minus_1", tiled_base=True),
        # 150 to 300 evaluations of each network in place of 3,280
        "fast": GenerationOptions(layout="shifted", solver="dpmsolver++", steps=15),
    }
)


def preset(name: str, **changes: Any) -> GenerationOptions:
    """A preset with some options changed. Raises UserError for an unknown preset or option."""
    if name not in PRESETS:
        raise UserError(f"the preset {name!r} does not exist; there are: {', '.join(PRESETS)}")
    known = set(GenerationOptions.__dataclass_fields__)
    if wrong := sorted(set(changes) - known):
        raise UserError(f"unknown generation options {', '.join(wrong)}; there are: {', '.join(sorted(known))}")
    return replace(PRESETS[name], **changes)
