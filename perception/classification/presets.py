"""Published settings per data set (Li et al. 2023, command list of the release; Stable Diffusion 2.0-base, 512 px)."""

from __future__ import annotations

from dataclasses import dataclass

from perception.errors import UserError


@dataclass(frozen=True)
class Preset:
    """Stages and loss of one data set; accuracy in percent with SD 2.0-base, mean per class where that is customary."""

    samples: tuple[int, ...]
    keep: tuple[int, ...]
    loss: str
    accuracy: float | None = None


_FOUR = (20, 50, 100, 500), (20, 10, 5, 1)

PRESETS: dict[str, Preset] = {
    "food": Preset(*_FOUR, "l2", 77.7),
    "cifar10": Preset((50, 500), (5, 1), "l1", 88.5),
    "cifar100": Preset(*_FOUR, "l1", 67.7),
    "aircraft": Preset(*_FOUR, "l2", 26.4),
    "pets": Preset((25, 250), (5, 1), "l1", 87.3),
    "flowers": Preset(*_FOUR, "l1", 66.3),
    "stl10": Preset((100, 500), (5, 1), "l1", 95.4),
    "imagenet": Preset((50, 100, 500, 1000), (500, 50, 10, 1), "l2", 61.4),
    "objectnet": Preset((50, 100, 500, 1000), (25, 10, 5, 1), "l2", 43.4),
}


def preset(name: str) -> Preset:
    """Look up a preset. Raises UserError naming the known ones."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
