"""Domains of the miniature world: light, air and precipitation over a clear picture."""

from __future__ import annotations

import cv2
import numpy as np

from perception.data.world.camera import Camera, Map
from perception.data.world.canvas import Canvas
from perception.data.world.vocabulary import TRAIN_ID

SKY = TRAIN_ID["sky"]


def apply_domain(canvas: Canvas, camera: Camera, domain: str, rng: np.random.Generator) -> None:
    """Change `canvas.image` in place into one of `DOMAINS`; labels, depth and instances stay."""
    {"clear": _clear, "night": _night, "fog": _fog, "rain": _rain, "snow": _snow}[domain](canvas, camera, rng)


def _clear(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    canvas.image *= np.array([rng.uniform(0.95, 1.06), 1.0, rng.uniform(0.92, 1.05)], np.float32) * rng.uniform(
        0.85, 1.12
    )


def _haze(canvas: Canvas, distance: float, air: Map) -> None:
    """Koschmieder: I = J exp(-z/d) + A (1 - exp(-z/d)); the sky is infinitely far."""
    depth = np.where(canvas.labels == SKY, np.inf, canvas.depth)
    clear = np.exp(-depth / distance)[..., None].astype(np.float32)
    canvas.image = canvas.image * clear + air * (1 - clear)


def _night(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    sky = canvas.labels == SKY
    canvas.image *= np.array([0.2, 0.22, 0.32], np.float32) * rng.uniform(0.75, 1.25)
    canvas.image[sky] = canvas.image[sky] * 0.35 + np.array([6, 8, 18])
    x, z = camera.ground()
    beam = np.exp(-np.square((x - camera.offset) / 3.0)) * np.exp(-np.abs(np.minimum(z, 60) - 7) / 7)
    lit = 1 + 2.6 * np.where(canvas.depth > 0, beam, 0)[..., None]
    canvas.image *= lit.astype(np.float32)
    rows, columns = np.mgrid[0 : camera.rows, 0 : camera.columns].astype(np.float32)
    for column, row, radius, color in canvas.glow:
        if -radius < column < camera.columns + radius and -radius < row < camera.rows + radius:
            spot = np.exp(-(np.square(columns - column) + np.square(rows - row)) / (2 * max(radius, 2.0) ** 2))
            canvas.image += spot[..., None] * np.array(color, np.float32) * 0.55
    windows = (canvas.labels == TRAIN_ID["building"]) & (cv2.blur(canvas.image, (3, 3))[..., 0] < 14)
    canvas.image[windows & (rng.random(windows.shape) < 0.02)] += np.array([170, 140, 80], np.float32)


def _fog(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    air = np.full(3, rng.uniform(176, 216), np.float32) * np.array([0.98, 1.0, 1.02], np.float32)
    _haze(canvas, rng.uniform(7, 20), air)


def _rain(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    sky = canvas.labels == SKY
    canvas.image[sky] = canvas.image[sky].mean() * 0.55 + 52 + 0.15 * canvas.image[sky]
    grey = canvas.image.mean(2, keepdims=True)
    canvas.image = (canvas.image * 0.62 + grey * 0.38) * rng.uniform(0.5, 0.68)
    _mirror_on_road(canvas, camera, rng.uniform(0.35, 0.6))
    _haze(canvas, rng.uniform(35, 60), np.full(3, 128, np.float32))
    _streaks(canvas, rng, count=int(rng.integers(60, 160)))


def _mirror_on_road(canvas: Canvas, camera: Camera, strength: float) -> None:
    """Wet asphalt: mix in the picture mirrored at the horizon, blurred along the columns."""
    rows = np.clip(2 * int(camera.horizon) - np.arange(camera.rows), 0, camera.rows - 1)
    mirrored = cv2.blur(canvas.image[rows], (3, 15))
    road = canvas.labels == TRAIN_ID["road"]
    canvas.image[road] = canvas.image[road] * (1 - strength) + mirrored[road] * strength


def _streaks(canvas: Canvas, rng: np.random.Generator, count: int) -> None:
    layer = np.zeros(canvas.image.shape[:2], np.float32)
    slant = rng.uniform(-0.25, 0.25)
    for x, y in rng.uniform(0, 1, (count, 2)) * (canvas.width, canvas.height):
        length = rng.uniform(8, 26)
        cv2.line(layer, (int(x), int(y)), (int(x + slant * length), int(y + length)), float(rng.uniform(0.15, 0.45)), 1)
    canvas.image = canvas.image * (1 - layer[..., None]) + 206 * layer[..., None]


def _snow(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    white = np.array([232, 236, 242], np.float32)
    cover = np.zeros(canvas.labels.shape, np.float32)
    for name, amount in (("terrain", 0.92), ("sidewalk", 0.8), ("road", rng.uniform(0.35, 0.7)), ("vegetation", 0.4)):
        cover[canvas.labels == TRAIN_ID[name]] = amount
    tops = np.roll(canvas.labels, 3, axis=0) != canvas.labels  # snow lies on upper edges
    cover[tops & (canvas.labels != SKY)] = 0.75
    cover *= cv2.blur(rng.uniform(0.6, 1.2, cover.shape).astype(np.float32), (7, 3))
    cover = np.clip(cover, 0, 1)[..., None]
    canvas.image = canvas.image * 0.85 * (1 - cover) + white * cover * rng.uniform(0.85, 1.0)
    sky = canvas.labels == SKY
    canvas.image[sky] = canvas.image[sky] * 0.2 + np.array([190, 194, 200]) * 0.8
    _haze(canvas, rng.uniform(40, 80), np.full(3, 205, np.float32))
    for x, y in rng.uniform(0, 1, (int(rng.integers(60, 180)), 2)) * (canvas.width, canvas.height):
        cv2.circle(canvas.image, (int(x), int(y)), int(rng.integers(1, 3)), (244.0, 246.0, 250.0), -1)
