"""`perception world`: pictures of the miniature world as files, to try every other command on."""

from __future__ import annotations

import argparse
import io
import json
from typing import TYPE_CHECKING

from perception.commands.arguments import a_path, comma_list, natural_int, positive_int

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perception.data.world import Scene

SUMMARY = "write pictures of the miniature world, with labels, depth and captions"
EXAMPLES = """perception world objects --out runs/objects --count 100            # one sub-folder per class
perception world scenes --out runs/scenes --count 20 --domains night,fog
perception world sheet --out sheet.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to draw, how much of it, and where to."""
    parser.add_argument("what", choices=("objects", "scenes", "sheet"), help="kind of pictures")
    parser.add_argument("--out", type=a_path, required=True, help="folder; for a sheet the PNG file")
    parser.add_argument("--count", type=positive_int, default=100, help="pictures (default: %(default)s)")
    parser.add_argument(
        "--first", type=natural_int, default=0, metavar="INDEX", help="index of the first picture (default: 0)"
    )
    parser.add_argument(
        "--seed", type=natural_int, default=2, help="0 training, 1 validation, 2 test stream (default: 2)"
    )
    parser.add_argument("--classes", type=comma_list, metavar="A,B", help="objects: their classes (default: ten)")
    parser.add_argument("--domains", type=comma_list, metavar="A,B", help="scenes: drawn in turn (default: all five)")
    parser.add_argument("--size", type=positive_int, default=128, help="height in pixels (default: %(default)s)")
    parser.add_argument("--width", type=positive_int, help="scenes: width in pixels (default: --size)")


def run(args: argparse.Namespace) -> int:
    """Draw and write; existing files are written again with the same bytes."""
    {"objects": _objects, "scenes": _scenes, "sheet": _sheet}[args.what](args)
    return 0


def _objects(args: argparse.Namespace) -> None:
    """OUT/<class>/<index>.png, the classes in turn."""
    from perception.data.files import write_atomic
    from perception.data.world import TEN_OBJECTS, render_object

    classes = args.classes or TEN_OBJECTS
    for index in range(args.first, args.first + args.count):
        drawn = render_object(args.seed, index, classes[index % len(classes)], args.size)
        write_atomic(args.out / drawn.category / f"{index:06d}.png", png(drawn.image))
    print(f"{args.count} pictures of {len(classes)} classes in {args.out}")


def _scenes(args: argparse.Namespace) -> None:
    """OUT/images, OUT/annotations (train ids), OUT/depth (16 bit, millimetres) and OUT/captions.jsonl."""
    from perception.data.files import write_atomic
    from perception.data.world import DOMAINS, render_scene

    domains, lines = args.domains or DOMAINS, []
    for index in range(args.first, args.first + args.count):
        scene = render_scene(args.seed, index, domains[index % len(domains)], (args.size, args.width or args.size))
        stem = f"{index:06d}_{scene.domain}"
        write_atomic(args.out / "images" / f"{stem}.png", png(scene.image))
        write_atomic(args.out / "annotations" / f"{stem}.png", png(scene.labels))
        write_atomic(
            args.out / "depth" / f"{stem}.png", png((scene.depth * 1000).round().clip(0, 65535).astype("uint16"))
        )
        lines.append(json.dumps(_description(stem, scene)))
    write_atomic(args.out / "captions.jsonl", ("\n".join(lines) + "\n").encode())
    print(f"{args.count} scenes in {args.out}")


def _description(stem: str, scene: Scene) -> dict[str, object]:
    expressions = [{"text": item.text, "pixels": int(item.mask.sum())} for item in scene.expressions]
    return {"id": stem, "domain": scene.domain, "captions": scene.captions, "expressions": expressions}


def _sheet(args: argparse.Namespace) -> None:
    """Eight scenes in every domain, their labels and depth, and two rows of objects."""
    from perception.data.files import write_atomic

    write_atomic(args.out, png(sheet(args.seed, args.size)))
    print(f"wrote {args.out}")


def sheet(seed: int, size: int, columns: int = 8) -> NDArray:
    """The picture sheet, uint8 [9 * size, columns * size, 3]: five domains, labels, depth, objects."""
    import numpy as np

    from perception.data.pictures import colour_labels
    from perception.data.world import DOMAINS, OBJECT_CLASSES, PALETTE, render_object, render_scene

    rows = [[render_scene(seed, column, domain, (size, size)) for column in range(columns)] for domain in DOMAINS]
    pictures = [[scene.image for scene in row] for row in rows]
    pictures.append([colour_labels(scene.labels, PALETTE) for scene in rows[0]])
    nearness = [np.where(scene.depth > 0, 255 / (1 + scene.depth / 8), 0).astype(np.uint8) for scene in rows[0]]
    pictures.append([np.repeat(grey[..., None], 3, axis=2) for grey in nearness])
    for row in range(2):
        names = [OBJECT_CLASSES[(row * columns + column) % len(OBJECT_CLASSES)] for column in range(columns)]
        pictures.append([render_object(seed, column, name, size).image for column, name in enumerate(names)])
    return np.concatenate([np.concatenate(row, axis=1) for row in pictures])


def png(pixels: NDArray) -> bytes:
    """uint8 [H, W, 3] or [H, W], or uint16 [H, W], as the bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
