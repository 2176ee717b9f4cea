"""The static street: sky, skyline, ground and the planes along it (buildings, walls, fences)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.data.world.camera import FAR, Camera, Map, NoiseTile
from perception.data.world.canvas import Canvas, Color, smooth_noise
from perception.data.world.shapes import shade
from perception.data.world.vocabulary import TRAIN_ID

FACADES: tuple[Color, ...] = (
    (168, 148, 128), (142, 96, 80), (188, 180, 166), (120, 118, 122), (176, 160, 112), (150, 120, 108), (108, 124, 138),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The plan of one street, metres."""

    road: float  # half width of the road
    sidewalk: float  # width of each sidewalk
    verge: tuple[float, float]  # width of the strip of terrain left and right of the sidewalks
    crossing: tuple[float, float] | None  # the Z range of a crossing street
    sun: float  # -1 (left side in the dark) .. 1 (right side in the dark)

    def edge(self, side: int) -> float:
        """Signed lateral position of the facades on `side` (-1 left, 1 right)."""
        return side * (self.road + self.sidewalk + self.verge[(side + 1) // 2])


def random_layout(rng: np.random.Generator) -> Layout:
    """Draw the plan of a street."""
    verge = [rng.uniform(1.5, 6.0) if rng.random() < 0.5 else 0.0 for _ in range(2)]
    start = rng.uniform(10, 32)
    return Layout(
        road=rng.uniform(2.7, 4.6),
        sidewalk=rng.uniform(1.6, 3.8),
        verge=(verge[0], verge[1]),
        crossing=(start, start + rng.uniform(7, 11)) if rng.random() < 0.4 else None,
        sun=rng.uniform(-1, 1),
    )


def _put(canvas: Canvas, where: Map, label: str, color: Map, depth: Map) -> None:
    canvas.labels[where] = TRAIN_ID[label]
    canvas.image[where] = color[where]
    canvas.depth[where] = depth[where]


def paint_sky(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """A vertical ramp with clouds; depth 0 stands for 'no surface'."""
    top, bottom = np.array([96, 142, 200]) * rng.uniform(0.85, 1.1), np.array([196, 212, 226]) * rng.uniform(0.9, 1.05)
    ramp = np.clip(np.arange(camera.rows) / max(camera.horizon, 1), 0, 1)[:, None, None] ** 1.5
    sky = (top * (1 - ramp) + bottom * ramp) * np.ones((1, camera.columns, 1))
    clouds = np.clip(smooth_noise(rng, camera.rows, camera.columns, 6) * 1.6 - rng.uniform(-0.4, 1.0), 0, 1)[..., None]
    canvas.image[:] = sky * (1 - 0.8 * clouds) + 236 * 0.8 * clouds
    canvas.labels[:] = TRAIN_ID["sky"]
    canvas.depth[:] = 0


def paint_skyline(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Distant houses and trees that close the street at `FAR`."""
    column, bottom = 0, int(camera.horizon + camera.focal * camera.height / FAR) + 2
    while column < camera.columns:
        width = int(rng.uniform(0.04, 0.16) * camera.columns) + 2
        top = int(camera.horizon - rng.uniform(0.5, 9.0) / FAR * camera.focal * 1.2)
        green = rng.random() < 0.45
        color = np.array((84, 112, 72) if green else FACADES[rng.integers(len(FACADES))]) * 0.5 + 88
        block = (slice(max(top, 0), bottom), slice(column, column + width))
        canvas.image[block] = color * rng.uniform(0.85, 1.1)
        canvas.labels[block] = TRAIN_ID["vegetation" if green else "building"]
        canvas.depth[block] = FAR
        column += width


def paint_ground(canvas: Canvas, camera: Camera, layout: Layout, noise: NoiseTile, rng: np.random.Generator) -> None:
    """Road with markings, sidewalks with slabs and kerbs, terrain beyond."""
    x, z = camera.ground()
    below = z < FAR
    near = 1 / (1 + z / 12)  # distant textures average out
    grain = (noise(x, z, 9.0) * 0.6 + noise(x, z, 1.3)) * near
    across = np.abs(x)
    cross = _in_crossing(layout, z)
    asphalt = np.array([92, 92, 98]) * rng.uniform(0.75, 1.3)
    slabs = np.array([158, 150, 144]) * rng.uniform(0.85, 1.15)
    grass = np.array([104, 124, 62]) * rng.uniform(0.8, 1.2) if rng.random() < 0.7 else np.array([142, 120, 84.0])

    def tint(base: Map, amplitude: float) -> Map:
        return base * (1 + amplitude * grain)[..., None]

    _put(canvas, below, "terrain", tint(grass, 0.3), z)
    slab_lines = ((np.nan_to_num(z, posinf=0) % 1.2 < 0.08) & (z < 18))[..., None]
    walk = below & (across < layout.road + layout.sidewalk)
    _put(canvas, walk, "sidewalk", tint(slabs, 0.12) * np.where(slab_lines, 0.8, 1), z)
    road = below & ((across < layout.road) | cross)
    _put(canvas, road, "road", tint(asphalt, 0.12), z)
    kerb = below & ~cross & (np.abs(across - layout.road) < 0.09) & (z < 40)
    canvas.image[kerb] = slabs * 1.2
    _paint_markings(canvas, layout, x, z, road & ~cross, rng)


def _in_crossing(layout: Layout, z: Map) -> Map:
    if layout.crossing is None:
        return np.zeros(z.shape, bool)
    return (z > layout.crossing[0]) & (z < layout.crossing[1])


def _paint_markings(canvas: Canvas, layout: Layout, x: Map, z: Map, road: Map, rng: np.random.Generator) -> None:
    white = np.array([222, 222, 214]) * rng.uniform(0.8, 1.05)
    finite = np.where(np.isfinite(z), z, 0)
    dashes = road & (np.abs(x) < 0.09) & ((finite + rng.uniform(0, 6)) % 6 < 3)
    edges = road & (np.abs(np.abs(x) - layout.road + 0.35) < 0.07)
    canvas.image[dashes | edges if rng.random() < 0.6 else dashes] = white
    if layout.crossing is not None and rng.random() < 0.7:  # a zebra crossing before the crossing street
        stripes = road & (np.abs(finite - layout.crossing[0] + 2) < 1.2) & (x % 1.0 < 0.5)
        canvas.image[stripes] = white


def paint_sides(canvas: Canvas, camera: Camera, layout: Layout, noise: NoiseTile, rng: np.random.Generator) -> None:
    """Facades, hedges, walls and fences on both sides, nearer surfaces over farther ones."""
    for side in (-1, 1):
        light = 1 - 0.28 * max(0.0, side * layout.sun)
        _paint_facades(canvas, camera, layout, side, light, noise, rng)
        if rng.random() < 0.6:
            _paint_barrier(canvas, camera, layout, side, light, noise, rng)


def _paint_facades(
    canvas: Canvas, camera: Camera, layout: Layout, side: int, light: float, noise: NoiseTile, rng: np.random.Generator
) -> None:
    z, y = camera.side_plane(layout.edge(side))
    starts = np.concatenate([[0.0], np.cumsum(rng.uniform(6, 20, 16))])
    number = np.searchsorted(starts, np.where(np.isfinite(z), z, 0), side="right") - 1  # building of each pixel
    heights = rng.uniform(4, 17, len(starts))
    kinds = rng.choice(3, len(starts), p=[0.72, 0.16, 0.12])  # building, hedge or trees, nothing
    heights[kinds == 1] = rng.uniform(1.5, 6, int((kinds == 1).sum()))
    heights[kinds == 2] = 0
    visible = (z < FAR) & (y > 0) & (y < heights[number] + _ragged(kinds, number, z, noise)) & ~_in_crossing(layout, z)
    colors = np.array([FACADES[i] for i in rng.integers(len(FACADES), size=len(starts))])
    colors = colors * rng.uniform(0.75, 1.15, (len(starts), 1))
    facade = colors[number] * (1 + 0.05 * noise(z, y, 5.0) / (1 + z / 15))[..., None]
    facade = np.where(_windows(z, y, number, rng, len(starts))[..., None], np.array([66, 78, 92.0]), facade) * light
    hedge = np.array([70, 104, 52.0]) * (1 + 0.35 * noise(z, y, 4.0) / (1 + z / 25))[..., None] * light
    green = kinds[number] == 1
    _put(canvas, visible & ~green, "building", facade, z)
    _put(canvas, visible & green, "vegetation", hedge, z)


def _ragged(kinds: Map, number: Map, z: Map, noise: NoiseTile) -> Map:
    return np.where(kinds[number] == 1, 0.5 * noise(z, np.zeros_like(z), 1.5), 0)


def _windows(z: Map, y: Map, number: Map, rng: np.random.Generator, count: int) -> Map:
    pitch, storey = rng.uniform(1.6, 3.2, count)[number], rng.uniform(2.6, 3.4, count)[number]
    u, v = np.nan_to_num(z, posinf=0) % pitch / pitch, y % storey / storey
    return (u > 0.3) & (u < 0.72) & (v > 0.35) & (v < 0.8) & (z < 55)


def _paint_barrier(
    canvas: Canvas, camera: Camera, layout: Layout, side: int, light: float, noise: NoiseTile, rng: np.random.Generator
) -> None:
    lateral = side * (layout.road + layout.sidewalk + 0.2)
    z, y = camera.side_plane(lateral)
    begin, height = rng.uniform(3, 25), rng.uniform(0.9, 2.2)
    end = begin + rng.uniform(8, 30)
    inside = (z > begin) & (z < end) & (y > 0) & (y < height) & ~_in_crossing(layout, z)
    inside &= (canvas.depth == 0) | (z < canvas.depth)
    if rng.random() < 0.5:
        brick = np.array(shade((158, 118, 100), rng.uniform(0.8, 1.2))) * light
        joints = ((y % 0.4 < 0.06) & (z < 25))[..., None]
        _put(canvas, inside, "wall", brick * (1 + 0.1 * noise(z, y, 3.0))[..., None] * np.where(joints, 0.8, 1), z)
    else:
        pickets = inside & ((np.nan_to_num(z, posinf=0) % 0.5 < 0.28) | (np.abs(y - height + 0.12) < 0.1) | (z > 22))
        canvas.labels[inside] = TRAIN_ID["fence"]
        canvas.depth[inside] = z[inside]
        canvas.image[pickets] = np.array(shade((170, 150, 124), rng.uniform(0.6, 1.2))) * light
