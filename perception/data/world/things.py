"""Everything that stands or moves on the street: what is placed where, and how it is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perception.data.world.camera import Camera, NoiseTile
from perception.data.world.canvas import Canvas, Color
from perception.data.world.shapes import draw_shape, shade
from perception.data.world.street import Layout
from perception.data.world.vocabulary import COLORS, TRAIN_ID

# width, height, length in metres
VEHICLES = {"car": (1.8, 1.5, 4.2), "truck": (2.4, 3.2, 7.5), "bus": (2.5, 3.0, 11.0), "train": (2.7, 3.5, 22.0)}
STOP, WAIT, GO, BOARD = (206, 44, 40), (230, 176, 40), (54, 176, 88), (40, 84, 170)


@dataclass
class Thing:
    """One thing on the street, before painting."""

    category: str  # a Cityscapes class name
    x: float  # street coordinates of its foot, metres
    z: float
    color: str = "white"
    scale: float = 1.0
    options: dict[str, float] = field(default_factory=dict)


def place_things(layout: Layout, rng: np.random.Generator) -> list[Thing]:
    """Draw what is on the street, from far to near (painter's order)."""
    things: list[Thing] = []
    for side in (-1, 1):
        things += _parked(layout, side, rng)
        things += _furniture(layout, side, rng)
        things += _pedestrians(layout, side, rng)
    things += _traffic(layout, rng)
    things = [thing for thing in things if thing.category not in VEHICLES or not _blocked(thing, things)]
    return sorted(things, key=lambda thing: -thing.z)


def _blocked(thing: Thing, others: list[Thing]) -> bool:
    """True when an earlier vehicle already stands in the same place."""
    for other in others:
        if other is thing:
            return False
        if other.category not in VEHICLES or abs(other.x - thing.x) > 2.2:
            continue
        front, back = sorted((thing, other), key=lambda item: item.z)
        if back.z < front.z + VEHICLES[front.category][2] + 0.8:
            return True
    return False


def _color(rng: np.random.Generator) -> str:
    return str(rng.choice(list(COLORS)))


def _parked(layout: Layout, side: int, rng: np.random.Generator) -> list[Thing]:
    if rng.random() < 0.4:
        return []
    z, row = rng.uniform(4, 12), []
    while z < 48:
        if rng.random() < 0.6:
            row.append(Thing("car", side * (layout.road - 1.1), z, _color(rng), rng.uniform(0.9, 1.1)))
        z += rng.uniform(5.5, 12)
    return row


def _traffic(layout: Layout, rng: np.random.Generator) -> list[Thing]:
    moving = []
    for _ in range(rng.integers(0, 4)):
        kind = str(rng.choice(["car", "truck", "bus", "train"], p=[0.5, 0.2, 0.2, 0.1]))
        x = rng.choice([-1, 1]) * layout.road * rng.uniform(0.25, 0.5)
        moving.append(Thing(kind, float(x), rng.uniform(7, 42), _color(rng), rng.uniform(0.92, 1.08)))
    for _ in range(rng.integers(0, 3)):
        kind = "bicycle" if rng.random() < 0.6 else "motorcycle"
        x, z = rng.uniform(-0.9, 0.9) * layout.road, rng.uniform(4, 20)
        moving.append(Thing(kind, x, z, _color(rng), options={"rider": float(rng.random() < 0.75)}))
    return moving


def _pedestrians(layout: Layout, side: int, rng: np.random.Generator) -> list[Thing]:
    people = []
    for _ in range(rng.integers(0, 4)):
        x = side * (layout.road + rng.uniform(0.3, layout.sidewalk))
        if rng.random() < 0.12:
            x = side * rng.uniform(0.3, 0.9) * layout.road
        people.append(Thing("person", x, rng.uniform(3.5, 26), _color(rng), rng.uniform(0.85, 1.1)))
    return people


def _furniture(layout: Layout, side: int, rng: np.random.Generator) -> list[Thing]:
    kerb, back = side * (layout.road + 0.35), layout.edge(side) - side * 0.5
    row = [Thing("pole", kerb, z, scale=rng.uniform(0.9, 1.2)) for z in _row(rng, 5, 14, 0.5)]
    row += [Thing("vegetation", back, z, scale=rng.uniform(0.7, 1.4)) for z in _row(rng, 6, 12, 0.45)]
    row += [Thing("traffic sign", kerb, z, options={"kind": float(rng.integers(3))}) for z in _row(rng, 4, 16, 0.45)]
    if layout.crossing is not None and rng.random() < 0.8:
        row.append(Thing("traffic light", kerb, layout.crossing[0] - 1, options={"state": float(rng.integers(3))}))
    return row


def _row(rng: np.random.Generator, start: float, gap: float, chance: float) -> list[float]:
    if rng.random() > chance:
        return []
    positions = start + np.cumsum(rng.uniform(0.6, 1.4, 4) * gap) - gap * rng.random()
    return [float(z) for z in positions if 3.0 < z < 50]


class Painter:
    """Paints things on a canvas as the camera sees them."""

    def __init__(self, canvas: Canvas, camera: Camera, layout: Layout, noise: NoiseTile) -> None:
        self.canvas, self.camera, self.layout, self.noise = canvas, camera, layout, noise

    def paint(self, thing: Thing, instance: int) -> None:
        """Paint one thing and label its pixels with its class, depth and `instance` number."""
        if thing.category in VEHICLES:
            self._vehicle(thing, instance)
        elif thing.category in ("bicycle", "motorcycle"):
            self._two_wheeler(thing, instance)
        elif thing.category == "person":
            self._shadow(thing.x, thing.z, 0.4)
            self._billboard("person", thing, 1.75 * thing.scale, 1.75 * thing.scale)
            self.canvas.finish(TRAIN_ID["person"], thing.z, instance)
        elif thing.category == "vegetation":
            self._tree(thing, instance)
        else:
            self._post(thing, instance)

    def _light(self, x: float) -> float:
        return 1 - 0.2 * max(0.0, float(np.sign(x)) * self.layout.sun)

    def _frame(self, x: float, z: float, width: float, height: float, base: float = 0.0) -> Callable:
        def place(u: float, v: float) -> tuple[float, float]:
            return self.camera.project(x + (u - 0.5) * width, base + (1 - v) * height, z)

        return place

    def _billboard(
        self, shape: str, thing: Thing, width: float, height: float, base: float = 0.0,
        colors: dict[str, Color] | None = None,
    ) -> None:  # fmt: skip
        frame = self._frame(thing.x, thing.z, width, height, base)
        scale = self.camera.focal * height / thing.z
        draw_shape(self.canvas, shape, frame, scale, COLORS[thing.color], self._light(thing.x), colors)

    def _shadow(self, x: float, z: float, half: float, length: float = 0.0) -> None:
        """Darken the ground below a thing; labels stay."""
        corners = [
            (x - half, z - 0.1),
            (x + half, z - 0.1),
            (x + half * 1.2, z + length + 0.5),
            (x - half * 1.2, z + length + 0.5),
        ]
        self.canvas.darken([self.camera.project(px, 0, pz) for px, pz in corners], 0.55)

    def _vehicle(self, thing: Thing, instance: int) -> None:
        width, height, length = (extent * thing.scale for extent in VEHICLES[thing.category])
        self._shadow(thing.x, thing.z, width / 2, length)
        cabin = 0.52 if thing.category == "car" else 1.0  # height of the bonnet line over the full height
        color = shade(COLORS[thing.color], self._light(thing.x))
        left, right = thing.x - width / 2, thing.x + width / 2
        self._box(left, right, 0.25, height * cabin, thing.z, length, color)
        if thing.category == "car":
            inset = 0.12 * width
            self._box(
                left + inset, right - inset, height * cabin, height, thing.z + 0.4, length * 0.55, shade(color, 0.95)
            )
        self._rear(thing, left, right, height, cabin, color)
        self.canvas.finish(TRAIN_ID[thing.category], self._body_depth(thing, width, length), instance)

    def _body_depth(self, thing: Thing, width: float, length: float) -> np.ndarray:
        """Depth of the rear face, and of the visible flank along its plane."""
        lateral = thing.x - np.sign(thing.x - self.camera.offset) * width / 2
        z, _ = self.camera.side_plane(float(lateral))
        return np.clip(np.where(np.isfinite(z), z, thing.z), thing.z, thing.z + length).astype(np.float32)

    def _box(self, left: float, right: float, low: float, high: float, z: float, length: float, color: Color) -> None:
        project, far = self.camera.project, z + length
        flank = left if self.camera.offset < left else right if self.camera.offset > right else None
        if flank is not None:
            side = [
                project(flank, low, z),
                project(flank, low, far),
                project(flank, high, far),
                project(flank, high, z),
            ]
            self.canvas.polygon(side, shade(color, 0.7))
            top, bottom = low + (high - low) * 0.85, low + (high - low) * 0.55
            for k in range(max(1, int(length // 2.2))):  # windows of the flank
                a, b = z + length * 0.06 + k * 2.2, min(z + length * 0.06 + k * 2.2 + 1.5, far - 0.2)
                if high > 1.3 and b > a:
                    glass = [
                        project(flank, bottom, a),
                        project(flank, bottom, b),
                        project(flank, top, b),
                        project(flank, top, a),
                    ]
                    self.canvas.polygon(glass, (70, 84, 98))
            if low < 0.5:
                for wheel in (z + 0.2 * length, z + 0.8 * length):
                    radius = 0.36 * self.camera.focal / wheel
                    x, y = project(flank, 0.34, wheel)
                    self.canvas.ellipse(x, y, radius * 0.4, radius, (30, 30, 32))
        self.canvas.polygon(
            [project(left, low, z), project(right, low, z), project(right, high, z), project(left, high, z)], color
        )

    def _rear(self, thing: Thing, left: float, right: float, height: float, cabin: float, color: Color) -> None:
        project, z = self.camera.project, thing.z
        width = right - left

        def panel(u0: float, u1: float, y0: float, y1: float, paint: Color) -> None:
            a, b = left + u0 * width, left + u1 * width
            self.canvas.polygon([project(a, y0, z), project(b, y0, z), project(b, y1, z), project(a, y1, z)], paint)

        panel(0.08, 0.24, 0.0, 0.3, (28, 28, 30))
        panel(0.76, 0.92, 0.0, 0.3, (28, 28, 30))
        if thing.category == "car":
            panel(0.2, 0.8, height * (cabin + 0.06), height * 0.94, (74, 88, 100))
        elif thing.category == "truck":
            panel(0.06, 0.94, height * 0.2, height * 0.96, shade(color, 1.12))
            panel(0.49, 0.51, height * 0.2, height * 0.96, shade(color, 0.6))
        else:
            panel(0.1, 0.9, height * 0.55, height * 0.88, (74, 88, 100))
            panel(
                0.0, 1.0, height * 0.42, height * 0.46, shade(color, 1.4) if thing.category == "bus" else (200, 60, 50)
            )
        for u0, u1 in ((0.04, 0.16), (0.84, 0.96)):
            panel(u0, u1, 0.62, 0.82, (186, 30, 28))
            x, y = project(left + (u0 + u1) / 2 * width, 0.72, z)
            self.canvas.glow.append((x, y, 0.5 * self.camera.focal / z, (255, 40, 30)))

    def _two_wheeler(self, thing: Thing, instance: int) -> None:
        height = 1.1 * thing.scale
        self._shadow(thing.x, thing.z, 0.7)
        self._billboard(thing.category, thing, 1.75, height * 1.3)
        self.canvas.finish(TRAIN_ID[thing.category], thing.z, instance)
        if thing.options.get("rider"):
            rider = Thing("rider", thing.x, thing.z - 0.05, str(list(COLORS)[instance % len(COLORS)]))
            self._billboard("rider", rider, 1.2, 1.3, base=0.55)
            self.canvas.finish(TRAIN_ID["rider"], rider.z, instance + 1)

    def _tree(self, thing: Thing, instance: int) -> None:
        tall = 5.2 * thing.scale
        green = shade((70, 112, 50), 0.8 + 0.4 * ((instance * 37) % 10) / 10)
        self._shadow(thing.x, thing.z, 1.0 * thing.scale)
        self._billboard("tree", thing, tall, tall, colors={"leaf": green})
        shape = (self.camera.rows, self.camera.columns)
        rows = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
        columns = np.broadcast_to(np.arange(shape[1], dtype=np.float32), shape)
        cell = thing.z / self.camera.focal
        self.canvas.texture_painted(0.25 / (1 + thing.z / 25), self.noise(rows * cell, columns * cell, 6.0))
        self.canvas.finish(TRAIN_ID["vegetation"], thing.z, instance)

    def _post(self, thing: Thing, instance: int) -> None:
        """A lamp pole, a traffic sign or a traffic light, each on its post."""
        tall = {"pole": 5.0, "traffic sign": 2.2, "traffic light": 2.9}[thing.category] * thing.scale
        project = self.camera.project
        thickness = 0.13 * self.camera.focal / thing.z
        post = [project(thing.x, 0, thing.z), project(thing.x, tall, thing.z)]
        if thing.category == "pole":
            arm = -np.sign(thing.x) * 1.2
            post.append(project(thing.x + arm, tall + 0.2, thing.z))
            x, y = post[-1]
            self.canvas.glow.append((x, y, 0.7 * self.camera.focal / thing.z, (255, 224, 160)))
        self.canvas.line(post, thickness, (112, 114, 118))
        self.canvas.finish(TRAIN_ID["pole"], thing.z, 0 if thing.category != "pole" else instance)
        if thing.category == "traffic sign":
            kind = ("sign disc", "sign triangle", "sign board")[int(thing.options["kind"])]
            self._billboard(kind, thing, 0.8, 0.8, base=tall, colors={"stop": STOP, "board": BOARD})
            self.canvas.finish(TRAIN_ID["traffic sign"], thing.z - 0.05, instance)
        elif thing.category == "traffic light":
            self._lights(thing, tall, instance)

    def _lights(self, thing: Thing, base: float, instance: int) -> None:
        state = int(thing.options["state"])
        lamps = {
            key: (color if state == k else shade(color, 0.3))
            for k, (key, color) in enumerate((("stop", STOP), ("wait", WAIT), ("go", GO)))
        }
        self._billboard("traffic light", thing, 0.62, 1.15, base=base, colors=lamps)
        x, y = self.camera.project(thing.x, base + 1.15 * (0.8, 0.5, 0.2)[state], thing.z)
        self.canvas.glow.append((x, y, 0.5 * self.camera.focal / thing.z, (STOP, WAIT, GO)[state]))
        self.canvas.finish(TRAIN_ID["traffic light"], thing.z - 0.05, instance)
