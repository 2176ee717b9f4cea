"""Street scenes: draw the plan, paint it, and write down everything that is true about the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.data.world.camera import NoiseTile, random_camera
from perception.data.world.canvas import Canvas
from perception.data.world.language import Expression, Instance, referring_expressions, scene_captions
from perception.data.world.street import paint_ground, paint_sides, paint_sky, paint_skyline, random_layout
from perception.data.world.things import Painter, Thing, place_things
from perception.data.world.vocabulary import CLASSES, DOMAINS, TRAIN_ID
from perception.data.world.weather import apply_domain
from perception.errors import UserError


@dataclass(frozen=True)
class Scene:
    """A street scene and its ground truth."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    labels: NDArray[np.uint8]  # [H, W] Cityscapes train ids
    depth: NDArray[np.float32]  # [H, W] metres along the optical axis; 0 in the sky
    instance_map: NDArray[np.int32]  # [H, W] numbers of `instances`, 0 for stuff
    instances: tuple[Instance, ...]
    captions: tuple[str, ...]
    expressions: tuple[Expression, ...]
    domain: str


def render_scene(seed: int, index: int, domain: str = "clear", size: tuple[int, int] = (128, 128)) -> Scene:
    """Draw scene `index` of the stream `seed` in one of `DOMAINS`; the same arguments give the same bytes.

    The street, its things and the camera depend on (seed, index) alone: the domains of one index show the same place.

    Args:
        size: (height, width) in pixels, each at least 64.

    Raises:
        UserError: for an unknown domain or a size below 64 px.
    """
    if domain not in DOMAINS:
        raise UserError(f"unknown domain {domain!r}; the miniature world has: {', '.join(DOMAINS)}")
    if min(size) < 64:
        raise UserError(f"scenes need at least 64 x 64 px, got {size[0]} x {size[1]}; choose a larger size")
    rng = np.random.default_rng([seed, index, 3])
    canvas = Canvas(*size)
    camera, layout, noise = random_camera(rng, canvas.height, canvas.width), random_layout(rng), NoiseTile(rng)
    paint_sky(canvas, camera, rng)
    paint_skyline(canvas, camera, rng)
    paint_ground(canvas, camera, layout, noise, rng)
    paint_sides(canvas, camera, layout, noise, rng)
    painter, numbered = Painter(canvas, camera, layout, noise), {}
    for order, thing in enumerate(place_things(layout, rng)):
        painter.paint(thing, 1 + 2 * order)  # even numbers are riders
        numbered[1 + 2 * order] = thing
    weather = np.random.default_rng([seed, index, 5, DOMAINS.index(domain)])
    apply_domain(canvas, camera, domain, weather)
    return _finish(canvas, numbered, domain, weather)


def _finish(canvas: Canvas, numbered: dict[int, Thing], domain: str, rng: np.random.Generator) -> Scene:
    smooth, labels, depth, instance_map = canvas.downsample()
    image = smooth + rng.normal(0, 5.0 if domain == "night" else 2.0, smooth.shape)
    instances = _instances(instance_map, labels, numbered, depth)
    present = [CLASSES[label] for label in np.unique(labels)]
    return Scene(
        image=np.clip(image, 0, 255).astype(np.uint8),
        labels=labels,
        depth=depth,
        instance_map=instance_map,
        instances=instances,
        captions=scene_captions(instances, present, domain),
        expressions=referring_expressions(instances, instance_map),
        domain=domain,
    )


def _instances(
    instance_map: NDArray[np.int32], labels: NDArray[np.uint8], numbered: dict[int, Thing], depth: NDArray[np.float32]
) -> tuple[Instance, ...]:
    found = []
    for number in np.unique(instance_map[instance_map > 0]):
        rows, columns = np.nonzero(instance_map == number)
        is_rider = labels[rows[0], columns[0]] == TRAIN_ID["rider"]
        thing = numbered[int(number) - 1 if is_rider else int(number)]
        colored = not is_rider and thing.category in ("car", "truck", "bus", "train", "person", "bicycle", "motorcycle")
        third = 3 * columns.mean() / instance_map.shape[1]
        found.append(
            Instance(
                number=int(number),
                category="rider" if is_rider else thing.category,
                color=thing.color if colored else "",
                side="left" if third < 1 else "right" if third > 2 else "middle",
                distance=float(depth[rows, columns].min()),
                box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
                pixels=len(rows),
            )
        )
    return tuple(found)
