"""A supersampled drawing surface which keeps image, label map, depth and instance map in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]]
Color = tuple[float, float, float]
SUPERSAMPLING = 2
_SHIFT = 4  # cv2 takes fixed-point coordinates with this many fractional bits


def fixed_point(points: Any) -> NDArray[np.int32]:
    """[N, 2] float pixel coordinates -> cv2 fixed point."""
    return np.round(np.asarray(points, np.float64) * (1 << _SHIFT)).astype(np.int32)


class Canvas:
    """Image [H*2, W*2, 3] float32 in 0..255 with per-pixel label, depth [m] and instance number.

    `polygon`, `ellipse` and `line` paint colour and collect a mask; `finish` gives all painted pixels one label, depth
    and instance. Things must be painted from far to near.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.image: NDArray[Any] = np.zeros((self.height, self.width, 3), np.float32)
        self.labels = np.full((self.height, self.width), 255, np.uint8)
        self.depth = np.zeros((self.height, self.width), np.float32)
        self.instances = np.zeros((self.height, self.width), np.int32)
        self.glow: list[tuple[float, float, float, Color]] = []  # lights: x, y, radius [px], colour
        self._mask = np.zeros((self.height, self.width), np.uint8)

    def polygon(self, points: Points, color: Color) -> None:
        """Fill a polygon given in supersampled pixels."""
        corners = fixed_point(points)
        cv2.fillPoly(self.image, [corners], color, cv2.LINE_8, _SHIFT)
        cv2.fillPoly(self._mask, [corners], 1, cv2.LINE_8, _SHIFT)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Fill an axis-aligned ellipse."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), color)  # type: ignore[arg-type]

    def line(self, points: Points, width: float, color: Color) -> None:
        """Draw a polyline with square joints, `width` in pixels."""
        thickness = max(1, round(width))
        corners = fixed_point(points)
        cv2.polylines(self.image, [corners], False, color, thickness, cv2.LINE_8, _SHIFT)
        cv2.polylines(self._mask, [corners], False, 1, thickness, cv2.LINE_8, _SHIFT)

    def darken(self, points: Points, factor: float) -> None:
        """Multiply the image inside a polygon by `factor`; labels, depth and instances stay."""
        inside = np.zeros_like(self._mask)
        cv2.fillPoly(inside, [fixed_point(points)], 1, cv2.LINE_8, _SHIFT)
        self.image[inside > 0] *= factor

    def finish(self, label: int, depth: float | NDArray[np.float32], instance: int = 0) -> None:
        """Label everything painted since the last call; `depth` in metres, a number or a map of the canvas size."""
        painted = self._mask > 0
        self.labels[painted] = label
        self.depth[painted] = depth[painted] if isinstance(depth, np.ndarray) else depth
        self.instances[painted] = instance
        self._mask[:] = 0

    def texture_painted(self, amplitude: float, noise: NDArray[np.float32]) -> None:
        """Multiply what is painted but not finished by 1 + amplitude * noise (noise [H*2, W*2], about -1..1)."""
        painted = self._mask > 0
        self.image[painted] *= (1 + amplitude * noise[painted])[:, None]

    def downsample(self) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
        """Image by area average, the maps by nearest neighbour, at the nominal size."""
        size = (self.width // SUPERSAMPLING, self.height // SUPERSAMPLING)
        image: NDArray[Any] = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        pick = (slice(None, None, SUPERSAMPLING),) * 2
        return image, self.labels[pick].copy(), self.depth[pick].copy(), self.instances[pick].copy()


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> NDArray[np.float32]:
    """Value noise in -1..1: `cells` random knots along the longer side, bicubic in between. [height, width]."""
    longest = max(height, width)
    knots = rng.uniform(-1, 1, (max(2, cells * height // longest), max(2, cells * width // longest)))
    return np.clip(cv2.resize(knots.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)
