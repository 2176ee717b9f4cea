"""The last stage of making `mini` and `mini-dit`: how typical their own pictures look to them, beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from perception.backbones.loading.load import load_backbone
from perception.backbones.own_pictures import FILE, OwnPictures
from perception.backbones.typicality import fit_own_pictures
from perception.data.fashion_mnist import load_fashion_mnist
from perception.data.world import DOMAINS, VAL_SEED, render_object, render_scene
from perception.errors import UserError


def measure_world(folder: Path, count: int = 600, report: Callable[[str], None] = print) -> OwnPictures:
    """Write typicality.json of an exported `mini`: two scenes to one object, of the validation stream."""
    return _measure(
        folder, world_pictures(count), f"{count} pictures of the miniature world, validation stream", report
    )


def measure_fashion_mnist(
    folder: Path, data: Path, count: int = 1000, report: Callable[[str], None] = print
) -> OwnPictures:
    """Write typicality.json of an exported `mini-dit`: the last training pictures of Fashion-MNIST."""
    images, _ = load_fashion_mnist(data, "train")
    pictures = (Image.fromarray(pixels) for pixels in images[-count:])
    return _measure(folder, pictures, f"the last {count} training pictures of Fashion-MNIST", report)


def world_pictures(count: int, seed: int = VAL_SEED) -> Iterator[Image.Image]:
    """Two scenes, of all domains in turn, to one object, of all categories in turn, as the training has them."""
    for index in range(count):
        if index % 3 == 2:
            yield Image.fromarray(render_object(seed, index // 3).image)
        else:
            yield Image.fromarray(render_scene(seed, index, DOMAINS[index % len(DOMAINS)]).image)


def _measure(
    folder: Path, pictures: Iterable[Image.Image], described: str, report: Callable[[str], None]
) -> OwnPictures:
    (folder / FILE).unlink(missing_ok=True)
    backbone = load_backbone(folder, device="cpu")
    if backbone.training_size is None:
        raise UserError(f"{folder} does not say at which size it was trained; export it again")
    height, width = (side * backbone.latent_stride for side in backbone.training_size)

    def counted() -> Iterator[Image.Image]:
        for number, picture in enumerate(pictures, start=1):
            yield picture
            if number % 100 == 0:
                report(f"measured {number} pictures")

    own = fit_own_pictures(backbone, counted(), described, (height, width))
    own.write(folder)
    return own
