"""What the things of the miniature world look like: drawing tables in the unit square.

A shape is a list of primitives painted in order; x runs right, y runs down, both in 0..1. A primitive is
(kind, colour key, geometry): "poly" with points, "ellipse" with (cx, cy, rx, ry), "line" with (width, points).
Colour keys: "main" is the named colour of the thing, "dark" and "light" are shades of it, others are in `FIXED`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from typing import Any

from perception.data.world.canvas import Canvas, Color

FIXED: dict[str, Color] = {
    "glass": (120, 150, 168), "tyre": (30, 30, 32), "metal": (150, 152, 156), "skin": (206, 158, 126),
    "wood": (122, 86, 54), "leaf": (66, 122, 48), "cloth": (62, 66, 92), "cream": (232, 222, 196),
    "paper": (240, 240, 236), "ink": (34, 34, 36), "lamp": (250, 232, 150), "roof": (128, 60, 48),
}  # fmt: skip
Primitive = tuple[str, str, Any]


def _wheels(*centres: tuple[float, float], radius: float = 0.11) -> list[Primitive]:
    hubs: list[Primitive] = []
    for x, y in centres:
        hubs += [("ellipse", "tyre", (x, y, radius, radius)), ("ellipse", "metal", (x, y, radius / 2, radius / 2))]
    return hubs


def _ring(x: float, y: float, radius: float, width: float, key: str) -> Primitive:
    points = [(x + radius * cos(2 * pi * k / 20), y + radius * sin(2 * pi * k / 20)) for k in range(21)]
    return ("line", key, (width, points))


def _star() -> list[tuple[float, float]]:
    radii = [0.48 if k % 2 == 0 else 0.2 for k in range(10)]
    return [(0.5 + r * sin(pi * k / 5), 0.52 - r * cos(pi * k / 5)) for k, r in enumerate(radii)]


SHAPES: dict[str, list[Primitive]] = {
    "car": [
        ("poly", "main", [(0.02, 0.72), (0.02, 0.54), (0.2, 0.48), (0.32, 0.3), (0.7, 0.3), (0.84, 0.5), (0.98, 0.56), (0.98, 0.72)]),
        ("poly", "glass", [(0.25, 0.48), (0.34, 0.34), (0.49, 0.34), (0.49, 0.48)]),
        ("poly", "glass", [(0.53, 0.48), (0.53, 0.34), (0.68, 0.34), (0.78, 0.48)]),
        ("line", "dark", (0.02, [(0.02, 0.66), (0.98, 0.66)])),
        *_wheels((0.22, 0.72), (0.78, 0.72)),
    ],
    "bus": [
        ("poly", "main", [(0.02, 0.76), (0.02, 0.26), (0.06, 0.2), (0.94, 0.2), (0.98, 0.26), (0.98, 0.76)]),
        *[("poly", "glass", [(x, 0.5), (x, 0.3), (x + 0.13, 0.3), (x + 0.13, 0.5)]) for x in (0.07, 0.24, 0.41, 0.58, 0.75)],
        ("line", "light", (0.03, [(0.03, 0.6), (0.97, 0.6)])),
        *_wheels((0.2, 0.77), (0.78, 0.77), radius=0.09),
    ],
    "truck": [
        ("poly", "light", [(0.02, 0.7), (0.02, 0.2), (0.66, 0.2), (0.66, 0.7)]),
        ("poly", "main", [(0.68, 0.72), (0.68, 0.34), (0.84, 0.34), (0.97, 0.52), (0.97, 0.72)]),
        ("poly", "glass", [(0.74, 0.5), (0.74, 0.39), (0.82, 0.39), (0.91, 0.5)]),
        ("line", "dark", (0.04, [(0.02, 0.72), (0.97, 0.72)])),
        *_wheels((0.16, 0.76), (0.34, 0.76), (0.82, 0.76), radius=0.09),
    ],
    "bicycle": [
        _ring(0.24, 0.66, 0.2, 0.035, "tyre"),
        _ring(0.76, 0.66, 0.2, 0.035, "tyre"),
        ("line", "main", (0.045, [(0.24, 0.66), (0.4, 0.4), (0.66, 0.4), (0.5, 0.66), (0.24, 0.66)])),
        ("line", "main", (0.045, [(0.5, 0.66), (0.37, 0.34)])),
        ("line", "main", (0.045, [(0.76, 0.66), (0.64, 0.3), (0.74, 0.27)])),
        ("line", "ink", (0.05, [(0.3, 0.33), (0.44, 0.33)])),
    ],
    "person": [
        ("poly", "cloth", [(0.38, 0.56), (0.62, 0.56), (0.64, 0.97), (0.54, 0.97), (0.5, 0.68), (0.46, 0.97), (0.36, 0.97)]),
        ("poly", "main", [(0.36, 0.26), (0.64, 0.26), (0.66, 0.6), (0.34, 0.6)]),
        ("line", "main", (0.07, [(0.36, 0.3), (0.26, 0.56)])),
        ("line", "main", (0.07, [(0.64, 0.3), (0.74, 0.56)])),
        ("ellipse", "skin", (0.5, 0.15, 0.085, 0.105)),
    ],
    "tree": [
        ("poly", "wood", [(0.45, 0.97), (0.47, 0.55), (0.53, 0.55), (0.55, 0.97)]),
        ("ellipse", "leaf", (0.5, 0.32, 0.3, 0.28)),
        ("ellipse", "leaf", (0.3, 0.45, 0.2, 0.17)),
        ("ellipse", "leaf", (0.7, 0.45, 0.2, 0.17)),
    ],
    "house": [
        ("poly", "main", [(0.12, 0.95), (0.12, 0.45), (0.88, 0.45), (0.88, 0.95)]),
        ("poly", "roof", [(0.04, 0.47), (0.5, 0.08), (0.96, 0.47)]),
        ("poly", "wood", [(0.42, 0.95), (0.42, 0.66), (0.58, 0.66), (0.58, 0.95)]),
        ("poly", "glass", [(0.2, 0.7), (0.2, 0.55), (0.34, 0.55), (0.34, 0.7)]),
        ("poly", "glass", [(0.66, 0.7), (0.66, 0.55), (0.8, 0.55), (0.8, 0.7)]),
    ],
    "cup": [
        _ring(0.76, 0.52, 0.15, 0.07, "main"),
        ("poly", "main", [(0.2, 0.24), (0.74, 0.24), (0.68, 0.86), (0.26, 0.86)]),
        ("ellipse", "dark", (0.47, 0.24, 0.27, 0.07)),
    ],
    "fish": [
        ("poly", "dark", [(0.24, 0.5), (0.03, 0.28), (0.1, 0.5), (0.03, 0.72)]),
        ("poly", "dark", [(0.42, 0.34), (0.56, 0.16), (0.68, 0.34)]),
        ("ellipse", "main", (0.56, 0.5, 0.38, 0.22)),
        ("ellipse", "paper", (0.8, 0.45, 0.045, 0.045)),
        ("ellipse", "ink", (0.81, 0.45, 0.022, 0.022)),
    ],
    "umbrella": [
        ("line", "wood", (0.035, [(0.5, 0.4), (0.5, 0.86), (0.56, 0.92), (0.63, 0.87)])),
        ("poly", "main", [(0.03, 0.52), (0.08, 0.34), (0.25, 0.16), (0.5, 0.09), (0.75, 0.16), (0.92, 0.34), (0.97, 0.52), (0.8, 0.45), (0.65, 0.52), (0.5, 0.45), (0.35, 0.52), (0.2, 0.45)]),
        ("line", "dark", (0.015, [(0.35, 0.52), (0.5, 0.09), (0.65, 0.52)])),
    ],
    "airplane": [
        ("poly", "dark", [(0.44, 0.5), (0.3, 0.14), (0.4, 0.14), (0.64, 0.5)]),
        ("poly", "main", [(0.03, 0.46), (0.2, 0.42), (0.82, 0.42), (0.97, 0.52), (0.82, 0.6), (0.14, 0.58)]),
        ("poly", "dark", [(0.03, 0.24), (0.12, 0.24), (0.22, 0.45), (0.07, 0.46)]),
        ("poly", "dark", [(0.44, 0.54), (0.26, 0.88), (0.38, 0.88), (0.64, 0.54)]),
        ("poly", "glass", [(0.8, 0.5), (0.8, 0.44), (0.9, 0.5)]),
    ],
    "star": [("poly", "main", _star())],
    "heart": [("poly", "main", [(0.5, 0.92), (0.1, 0.5), (0.06, 0.32), (0.15, 0.16), (0.32, 0.13), (0.5, 0.28), (0.68, 0.13), (0.85, 0.16), (0.94, 0.32), (0.9, 0.5)])],
    "lamp": [
        ("poly", "ink", [(0.34, 0.95), (0.36, 0.89), (0.64, 0.89), (0.66, 0.95)]),
        ("line", "metal", (0.04, [(0.5, 0.9), (0.5, 0.4)])),
        ("poly", "main", [(0.36, 0.08), (0.64, 0.08), (0.82, 0.45), (0.18, 0.45)]),
    ],
    "bottle": [
        ("poly", "main", [(0.42, 0.08), (0.58, 0.08), (0.58, 0.3), (0.7, 0.42), (0.7, 0.95), (0.3, 0.95), (0.3, 0.42), (0.42, 0.3)]),
        ("poly", "cream", [(0.3, 0.56), (0.7, 0.56), (0.7, 0.78), (0.3, 0.78)]),
        ("poly", "ink", [(0.42, 0.03), (0.58, 0.03), (0.58, 0.1), (0.42, 0.1)]),
    ],
    "bird": [
        ("poly", "dark", [(0.24, 0.56), (0.02, 0.44), (0.05, 0.6), (0.26, 0.66)]),
        ("ellipse", "main", (0.46, 0.56, 0.26, 0.18)),
        ("ellipse", "main", (0.7, 0.36, 0.14, 0.13)),
        ("poly", "lamp", [(0.82, 0.32), (0.97, 0.38), (0.82, 0.42)]),
        ("poly", "dark", [(0.28, 0.52), (0.56, 0.52), (0.3, 0.72)]),
        ("ellipse", "ink", (0.74, 0.33, 0.02, 0.02)),
        ("line", "wood", (0.025, [(0.44, 0.72), (0.44, 0.9)])),
        ("line", "wood", (0.025, [(0.54, 0.72), (0.54, 0.9)])),
    ],
    "chair": [
        ("poly", "main", [(0.22, 0.06), (0.34, 0.06), (0.34, 0.58), (0.22, 0.58)]),
        ("poly", "dark", [(0.22, 0.5), (0.78, 0.5), (0.8, 0.6), (0.22, 0.6)]),
        ("line", "wood", (0.06, [(0.26, 0.58), (0.24, 0.96)])),
        ("line", "wood", (0.06, [(0.75, 0.58), (0.77, 0.96)])),
    ],
    "boat": [
        ("line", "wood", (0.03, [(0.5, 0.7), (0.5, 0.06)])),
        ("poly", "paper", [(0.53, 0.1), (0.53, 0.62), (0.88, 0.62)]),
        ("poly", "cream", [(0.47, 0.18), (0.47, 0.62), (0.2, 0.62)]),
        ("poly", "main", [(0.04, 0.68), (0.96, 0.68), (0.8, 0.9), (0.2, 0.9)]),
    ],
    "clock": [
        ("ellipse", "main", (0.5, 0.5, 0.45, 0.45)),
        ("ellipse", "paper", (0.5, 0.5, 0.36, 0.36)),
        ("line", "ink", (0.04, [(0.5, 0.5), (0.5, 0.22)])),
        ("line", "ink", (0.05, [(0.5, 0.5), (0.68, 0.58)])),
    ],
    "mushroom": [
        ("poly", "cream", [(0.4, 0.5), (0.6, 0.5), (0.66, 0.94), (0.34, 0.94)]),
        ("poly", "main", [(0.05, 0.54), (0.1, 0.32), (0.28, 0.14), (0.5, 0.08), (0.72, 0.14), (0.9, 0.32), (0.95, 0.54)]),
        ("ellipse", "paper", (0.34, 0.32, 0.07, 0.06)),
        ("ellipse", "paper", (0.62, 0.26, 0.06, 0.05)),
        ("ellipse", "paper", (0.74, 0.43, 0.05, 0.04)),
    ],
    "ball": [
        ("ellipse", "main", (0.5, 0.5, 0.44, 0.44)),
        ("line", "dark", (0.03, [(0.2, 0.2), (0.4, 0.5), (0.2, 0.8)])),
        ("line", "dark", (0.03, [(0.8, 0.2), (0.6, 0.5), (0.8, 0.8)])),
    ],
    "flower": [
        ("line", "leaf", (0.05, [(0.5, 0.46), (0.5, 0.97)])),
        ("ellipse", "leaf", (0.62, 0.78, 0.12, 0.05)),
        *[("ellipse", "main", (0.5 + dx, 0.32 + dy, 0.13, 0.13)) for dx, dy in ((0, -0.18), (0.17, -0.05), (0.11, 0.15), (-0.11, 0.15), (-0.17, -0.05))],
        ("ellipse", "lamp", (0.5, 0.32, 0.1, 0.1)),
    ],
    "table": [
        ("line", "wood", (0.06, [(0.16, 0.4), (0.12, 0.92)])),
        ("line", "wood", (0.06, [(0.84, 0.4), (0.88, 0.92)])),
        ("poly", "main", [(0.1, 0.3), (0.9, 0.3), (0.98, 0.44), (0.02, 0.44)]),
    ],
    "ladder": [
        ("line", "main", (0.06, [(0.34, 0.04), (0.26, 0.96)])),
        ("line", "main", (0.06, [(0.66, 0.04), (0.74, 0.96)])),
        *[("line", "dark", (0.05, [(0.33 - 0.09 * y, y), (0.67 + 0.09 * y, y)])) for y in (0.16, 0.34, 0.52, 0.7, 0.88)],
    ],
    "motorcycle": [
        *_wheels((0.2, 0.72), (0.8, 0.72), radius=0.18),
        ("poly", "main", [(0.2, 0.6), (0.3, 0.42), (0.62, 0.42), (0.78, 0.62), (0.5, 0.74), (0.36, 0.74)]),
        ("poly", "ink", [(0.14, 0.42), (0.42, 0.36), (0.44, 0.44), (0.16, 0.5)]),
        ("line", "metal", (0.05, [(0.8, 0.72), (0.66, 0.3), (0.56, 0.28)])),
    ],
    "rider": [
        ("line", "cloth", (0.12, [(0.4, 0.6), (0.58, 0.66), (0.52, 0.95)])),
        ("poly", "main", [(0.32, 0.62), (0.36, 0.28), (0.56, 0.24), (0.56, 0.6)]),
        ("line", "main", (0.08, [(0.52, 0.32), (0.76, 0.48)])),
        ("ellipse", "skin", (0.5, 0.14, 0.09, 0.1)),
        ("poly", "ink", [(0.4, 0.12), (0.44, 0.03), (0.56, 0.03), (0.6, 0.12)]),
    ],
    "traffic light": [
        ("poly", "ink", [(0.3, 0.02), (0.7, 0.02), (0.7, 0.98), (0.3, 0.98)]),
        ("ellipse", "stop", (0.5, 0.2, 0.14, 0.13)),
        ("ellipse", "wait", (0.5, 0.5, 0.14, 0.13)),
        ("ellipse", "go", (0.5, 0.8, 0.14, 0.13)),
    ],
    "sign disc": [("ellipse", "stop", (0.5, 0.5, 0.5, 0.5)), ("ellipse", "paper", (0.5, 0.5, 0.34, 0.34))],
    "sign triangle": [("poly", "stop", [(0.5, 0.02), (0.99, 0.95), (0.01, 0.95)]), ("poly", "paper", [(0.5, 0.3), (0.78, 0.82), (0.22, 0.82)])],
    "sign board": [("poly", "board", [(0.0, 0.1), (1.0, 0.1), (1.0, 0.9), (0.0, 0.9)]), ("line", "paper", (0.08, [(0.2, 0.5), (0.8, 0.5)]))],
}  # fmt: skip


def shade(color: Color, factor: float) -> Color:
    """Brighten (> 1) or darken (< 1) a colour of 0..255."""
    return (min(255.0, color[0] * factor), min(255.0, color[1] * factor), min(255.0, color[2] * factor))


def draw_shape(
    canvas: Canvas,
    name: str,
    place: Callable[[float, float], tuple[float, float]],  # unit square -> supersampled pixels
    scale: float,  # pixels per unit, for line widths and ellipses
    main: Color,
    light: float = 1.0,  # brightness of the illumination
    colors: dict[str, Color] | None = None,  # more colour keys, or other values for them
) -> None:
    """Paint a shape of `SHAPES` on the canvas; call `canvas.finish` afterwards."""
    palette = {**FIXED, "main": main, "dark": shade(main, 0.62), "light": shade(main, 1.3), **(colors or {})}
    for kind, key, geometry in SHAPES[name]:
        color = shade(palette[key], light)
        if kind == "poly":
            canvas.polygon([place(*point) for point in geometry], color)
        elif kind == "ellipse":
            canvas.polygon([place(*point) for point in _ellipse_points(*geometry)], color)
        else:
            width, points = geometry
            canvas.line([place(*point) for point in points], width * scale, color)


def _ellipse_points(cx: float, cy: float, rx: float, ry: float) -> list[tuple[float, float]]:
    return [(cx + rx * cos(2 * pi * k / 20), cy + ry * sin(2 * pi * k / 20)) for k in range(20)]
