"""Single objects in front of cluttered backgrounds, for classification and few-shot segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from perception.data.world.canvas import SUPERSAMPLING, Canvas, Color, smooth_noise
from perception.data.world.shapes import draw_shape, shade
from perception.data.world.vocabulary import COLORS, OBJECT_CLASSES, OBJECT_FOLDS
from perception.errors import UserError

OBJECT_TEMPLATES = ("a photo of a {}.", "a photo of one {}.", "a {}.", "an image of a {}.")
CLUTTER = ("ball", "bottle", "cup", "ladder", "lamp", "star", "heart", "mushroom", "flower")


@dataclass(frozen=True)
class ObjectImage:
    """One object of a known category."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    mask: NDArray[np.bool_]  # [S, S] the visible object
    category: str
    color: str  # name of the main colour
    fold: int  # few-shot fold, 0..3
    captions: tuple[str, ...]


def render_object(seed: int, index: int, category: str | None = None, size: int = 128) -> ObjectImage:
    """Draw object `index` of the stream `seed`; the category follows from the index when it is not given.

    The same arguments give the same bytes. Scale, place, tilt, mirroring, colour, light, background and clutter vary.

    Raises:
        UserError: for a category that the world does not have, or a size below 32 px.
    """
    if category is None:
        category = OBJECT_CLASSES[index % len(OBJECT_CLASSES)]
    if category not in OBJECT_CLASSES:
        raise UserError(f"unknown object category {category!r}; the miniature world has: {', '.join(OBJECT_CLASSES)}")
    if size < 32:
        raise UserError(f"object images need at least 32 px, got {size}; choose a larger size")
    rng = np.random.default_rng([seed, index, 7, OBJECT_CLASSES.index(category)])
    canvas = Canvas(size, size)
    _paint_background(canvas, rng)
    color = str(rng.choice(list(COLORS)))
    _paint_object(canvas, category, COLORS[color], rng)
    smooth, labels, _, _ = canvas.downsample()
    image = smooth * rng.uniform(0.8, 1.15) + rng.normal(0, 2.0, smooth.shape)
    fold = next(number for number, names in enumerate(OBJECT_FOLDS) if category in names)
    return ObjectImage(
        image=np.clip(image, 0, 255).astype(np.uint8),
        mask=labels == 1,
        category=category,
        color=color,
        fold=fold,
        captions=object_captions(category, color),
    )


def object_captions(category: str, color: str) -> tuple[str, ...]:
    """The sentences that describe one object: every template, without and with its colour."""
    names = (category, f"{color} {category}")
    return tuple(template.format(name) for name in names for template in OBJECT_TEMPLATES)


def _paint_background(canvas: Canvas, rng: np.random.Generator) -> None:
    top, bottom = rng.uniform(70, 215, (2, 3)) * 0.6 + rng.uniform(30, 90)
    ramp = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None, None]
    canvas.image[:] = top * (1 - ramp) + bottom * ramp
    if rng.random() < 0.6:  # a table top or floor
        canvas.image[int(canvas.height * rng.uniform(0.55, 0.85)) :] *= rng.uniform(0.6, 1.25, 3)
    canvas.image *= 1 + 0.12 * smooth_noise(rng, canvas.height, canvas.width, 8)[..., None]
    for _ in range(rng.integers(0, 3)):
        _paint_clutter(canvas, rng)
    canvas.finish(0, 0.0)


def _paint_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    extent = canvas.height * rng.uniform(0.1, 0.2)
    x, y = rng.uniform(0, 1, 2) * canvas.height
    name, color = str(rng.choice(CLUTTER)), COLORS[str(rng.choice(list(COLORS)))]
    draw_shape(canvas, name, lambda u, v: (x + (u - 0.5) * extent, y + (v - 0.5) * extent), extent, shade(color, 0.85))


def _paint_object(canvas: Canvas, category: str, main: Color, rng: np.random.Generator) -> None:
    extent = canvas.height * rng.uniform(0.55, 0.9)
    centre = canvas.height * rng.uniform(0.42, 0.58, 2)
    tilt, mirror, stretch = radians(rng.normal(0, 7)), rng.choice([-1, 1]), rng.uniform(0.85, 1.18)

    def place(u: float, v: float) -> tuple[float, float]:
        x, y = (u - 0.5) * mirror * extent * stretch, (v - 0.5) * extent
        return centre[0] + x * cos(tilt) - y * sin(tilt), centre[1] + x * sin(tilt) + y * cos(tilt)

    main = shade(main, rng.uniform(0.8, 1.15))
    colors = {"leaf": shade((66, 122, 48), rng.uniform(0.75, 1.3))}
    draw_shape(canvas, category, place, extent, main, rng.uniform(0.8, 1.15), colors)
    grain = smooth_noise(rng, canvas.height, canvas.width, 12 * SUPERSAMPLING)
    canvas.texture_painted(0.1, grain)
    canvas.finish(1, 1.0)
