"""Prompt templates: the sets published with CLIP (Radford et al. 2021), and files of users."""

from __future__ import annotations

import os
from pathlib import Path

from perception.data.inputs import read_text
from perception.errors import UserError

IMAGENET_TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""The 80 templates published with CLIP (Radford et al. 2021), in their order; "itap": I took a picture."""

_PHOTOS = (
    "photo",
    "blurry photo",
    "black and white photo",
    "low contrast photo",
    "high contrast photo",
    "bad photo",
    "good photo",
)
_PICTURES = ("photo", "painting"), ("sculpture", "sketch", "tattoo"), ("drawing", "doodle")


def _cifar(article: str) -> tuple[str, ...]:
    sizes = (f"a photo of {article} {size} {{}}." for size in ("small", "big"))
    return (*(f"a {photo} of {article} {{}}." for photo in _PHOTOS), *sizes)


def _caltech(article: str) -> tuple[str, ...]:
    first, middle, last = (tuple(f"a {kind} of {article} {{}}." for kind in group) for group in _PICTURES)
    made = (f"{article} embroidered {{}}.", f"{article} cartoon {{}}.", f"{article} {{}} in a video game.")
    toys = (f"{article} plushie {{}}.", f"{article} origami {{}}.")
    free = (f"art of {article} {{}}.", f"graffiti of {article} {{}}.")
    rendition = f"a rendition of {article} {{}}."
    return (
        *first,
        f"{article} plastic {{}}.",
        *middle,
        f"{article} toy {{}}.",
        rendition,
        *made,
        *toys,
        *free,
        *last,
    )


TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "aircraft": tuple(f"a photo of {article} {{}}, a type of aircraft." for article in ("a", "the")),
    "caltech101": _caltech("a") + _caltech("the"),
    "cifar": _cifar("a") + _cifar("the"),
    "eurosat": tuple(f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the ")),
    "stl10": ("a photo of a {}.", "a photo of the {}."),
}
"""By name, in CLIP's order; the 80 of "imagenet" are IMAGENET_TEMPLATES."""


def template_set(name: str) -> tuple[str, ...]:
    """Return a published set: one of TEMPLATE_SETS, or "imagenet". Raises UserError naming the sets."""
    if name == "imagenet":
        return IMAGENET_TEMPLATES
    if name not in TEMPLATE_SETS:
        known = ", ".join(sorted((*TEMPLATE_SETS, "imagenet")))
        raise UserError(
            f"no template file or set {name!r}; give a sentence with {{}} for the class name, a text file with a "
            f"template per line, or one of {known}"
        )
    return TEMPLATE_SETS[name]


def read_templates(source: str | Path) -> tuple[str, ...]:
    """Templates of a text file, one per line (blank lines left out), else of the published set of that name.

    Raises UserError for an unknown set and for a file that is unreadable or empty. What a template must contain is
    checked where it is filled (`class_prompts`).
    """
    path = Path(source)
    if not os.path.exists(path) or path.is_dir():
        return template_set(str(source))
    lines = read_text(path, "the template file ").splitlines()
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise UserError(f"the template file {path} is empty; give it a sentence with {{}} per line")
    return templates
