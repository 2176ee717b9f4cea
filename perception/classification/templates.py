"""Prompt templates: the sets published with CLIP (Radford et al. 2021), and files of users."""

from __future__ import annotations

import os
from pathlib import Path

from perception.data.inputs import read_text
from perception.errors import UserError

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
"""By name, in CLIP's order; the 80 of "imagenet" are perception.conditioning's."""


def template_set(name: str) -> tuple[str, ...]:
    """Return a published set: one of TEMPLATE_SETS, or "imagenet". Raises UserError naming the sets."""
    if name == "imagenet":
        from perception.conditioning.templates import IMAGENET_TEMPLATES  # imports torch

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
