"""Captions and referring expressions of a scene, from its instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COUNTED = ("car", "person", "bus", "truck", "train", "bicycle", "motorcycle")
COUNTS = {1: "a", 2: "two", 3: "three"}
NOUNS = {"vegetation": "tree"}  # what a person calls an instance of a class
PLURALS = {"person": "people", "bus": "buses", "bicycle": "bicycles"}
WEATHER = {
    "clear": ("on a clear day", "on a sunny day"),
    "night": ("at night", "in the dark"),
    "fog": ("in fog", "in foggy weather"),
    "rain": ("in rain", "in rainy weather"),
    "snow": ("in snow", "in snowy weather"),
}


@dataclass(frozen=True)
class Instance:
    """One visible thing of a scene."""

    number: int  # its value in the instance map
    category: str  # Cityscapes class name
    color: str
    side: str  # "left", "middle" or "right" of the picture
    distance: float  # metres
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 of the visible pixels, exclusive end
    pixels: int  # visible pixels


@dataclass(frozen=True)
class Expression:
    """A phrase and what it names."""

    text: str
    numbers: tuple[int, ...]  # instances, empty for stuff
    mask: NDArray[np.bool_]  # [H, W]


def scene_captions(instances: Sequence[Instance], present: Sequence[str], domain: str) -> tuple[str, ...]:
    """Three sentences about a scene: weather and things, classes, weather alone. `present` are class names."""
    weather = WEATHER[domain]
    counts = Counter(
        item.category
        for item in instances
        if item.category in ("car", "person", "bus", "truck", "train", "bicycle", "motorcycle")
    )
    things = [_counted(name, number) for name, number in counts.most_common(3)]
    listed = " and ".join(things) if things else "no cars"
    stuff = [name for name in ("building", "vegetation", "fence", "wall", "sky") if name in present][:3]
    return (
        f"a street with {listed} {weather[0]}.",
        f"a city street {weather[1]} with {' and '.join(stuff)}." if stuff else f"a city street {weather[1]}.",
        f"a photo of a street {weather[1]}.",
    )


def _noun(category: str) -> str:
    return NOUNS.get(category, category)


def _counted(name: str, number: int) -> str:
    if number == 1:
        return f"a {name}"
    return f"{COUNTS.get(number, 'many')} {PLURALS.get(name, name + 's')}"


def referring_expressions(
    instances: Sequence[Instance],
    instance_map: NDArray[np.int32],
    minimum: int = 24,  # visible pixels below which a thing is not referred to
) -> tuple[Expression, ...]:
    """Phrases for single things ("the red car on the left") and for groups ("all cars"), each with its exact mask."""
    found: list[Expression] = []
    items = [item for item in instances if item.pixels >= minimum and item.category != "pole"]
    for item in items:
        text = _unique_phrase(item, items)
        if text is not None:
            found.append(Expression(text, (item.number,), instance_map == item.number))
    for category in sorted({item.category for item in items}):
        numbers = tuple(item.number for item in instances if item.category == category)
        if len(numbers) > 1:
            plural = PLURALS.get(category, _noun(category) + "s")
            found.append(Expression(f"all {plural}", numbers, np.isin(instance_map, numbers)))
    return tuple(found)


def _unique_phrase(item: Instance, items: Sequence[Instance]) -> str | None:
    """The shortest description that fits only this instance; None when there is none."""
    alike = [other for other in items if other.category == item.category]
    colored = [other for other in alike if other.color == item.color]
    place = f"in the {item.side}" if item.side == "middle" else f"on the {item.side}"
    noun = _noun(item.category)
    if len(alike) == 1:
        return f"the {noun}"
    if len(colored) == 1 and item.color:
        return f"the {item.color} {noun}"
    if sum(other.side == item.side for other in alike) == 1:
        return f"the {noun} {place}"
    if item.color and sum(other.side == item.side for other in colored) == 1:
        return f"the {item.color} {noun} {place}"
    if item.distance == min(other.distance for other in alike):
        return f"the closest {noun}"
    if item.distance == max(other.distance for other in alike):
        return f"the farthest {noun}"
    return None
