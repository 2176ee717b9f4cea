"""The pinhole camera of the miniature world, and where its rays hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[Any]  # [rows, columns], float32 unless said
FAR = 90.0  # metres; beyond it there is only the skyline


@dataclass(frozen=True)
class Camera:
    """Camera at height `height` above the ground, looking along +Z; X right, Y up, metres. Pixels are supersampled."""

    rows: int
    columns: int
    focal: float  # pixels
    horizon: float  # row of the horizon
    vanishing: float  # column where the street vanishes
    height: float  # metres above the ground
    offset: float  # metres to the right of the street's centre line

    def rays(self) -> tuple[Map, Map]:
        """Slopes x = X/Z (relative to the camera) and y = -Y/Z (down) of every pixel centre, each [rows, columns]."""
        x = (np.arange(self.columns, dtype=np.float32) + 0.5 - self.vanishing) / self.focal
        y = (np.arange(self.rows, dtype=np.float32) + 0.5 - self.horizon) / self.focal
        return np.broadcast_to(x, (self.rows, self.columns)), np.broadcast_to(y[:, None], (self.rows, self.columns))

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """World point (street coordinates, Y above ground) -> supersampled pixel (column, row)."""
        z = max(z, 0.3)
        return (
            self.vanishing + self.focal * (x - self.offset) / z,
            self.horizon + self.focal * (self.height - y) / z,
        )

    def ground(self) -> tuple[Map, Map]:
        """Street coordinates (X, Z) [m] where each ray meets the ground; Z is inf at and above the horizon."""
        x, y = self.rays()
        z = np.where(y > 1e-4, self.height / np.maximum(y, 1e-4), np.inf).astype(np.float32)
        return np.where(np.isfinite(z), x * np.where(np.isfinite(z), z, 0) + self.offset, 0).astype(np.float32), z

    def side_plane(self, lateral: float) -> tuple[Map, Map]:
        """Where rays meet the vertical plane X = `lateral` along the street: Z (inf where missed) and height [m]."""
        x, y = self.rays()
        distance = lateral - self.offset
        towards = x * np.sign(distance) > 1e-4
        z = np.where(towards, distance / np.where(towards, x, 1), np.inf).astype(np.float32)
        return z, (self.height - y * np.where(np.isfinite(z), z, 0)).astype(np.float32)


def random_camera(rng: np.random.Generator, rows: int, columns: int) -> Camera:
    """A plausible dashboard camera for a canvas of `rows` x `columns` supersampled pixels."""
    return Camera(
        rows=rows,
        columns=columns,
        focal=rows * rng.uniform(0.85, 1.15),
        horizon=rows * rng.uniform(0.38, 0.48),
        vanishing=columns * rng.uniform(0.36, 0.64),
        height=rng.uniform(1.3, 2.1),
        offset=rng.uniform(-1.5, 2.2),
    )


class NoiseTile:
    """A tile of random values that is looked up by world coordinates, so that textures follow the perspective."""

    SIZE = 256

    def __init__(self, rng: np.random.Generator) -> None:
        self.values = rng.uniform(-1, 1, (self.SIZE, self.SIZE)).astype(np.float32)

    def __call__(self, a: Map, b: Map, frequency: float) -> Map:
        """Values in -1..1 at (a, b) [m] with `frequency` cells per metre, same shape as `a`."""
        rows = (np.nan_to_num(a, posinf=0, neginf=0) * frequency).astype(np.int64) % self.SIZE
        columns = (np.nan_to_num(b, posinf=0, neginf=0) * frequency).astype(np.int64) % self.SIZE
        return self.values[rows, columns]
