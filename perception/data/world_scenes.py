"""Scenes of the miniature world as sources of training data, rendered once and kept in a folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from perception.data import world
from perception.data.files import write_atomic
from perception.data.refcoco import entries_of
from perception.data.world import Scene
from perception.errors import UserError

Place = tuple[int, int, str, tuple[int, int]]  # seed, index, domain, (height, width)
SEEDS = {"train": world.TRAIN_SEED, "val": world.VAL_SEED, "test": world.TEST_SEED}
Truth = Literal["labels", "depth", "expressions"]


class WorldScenes:
    """Scenes of one split with one kind of ground truth, here Cityscapes train ids; the first so many.

    Raises:
        UserError: an unknown split or domain.
    """

    truth: ClassVar[Truth] = "labels"
    metainfo: ClassVar[Mapping[str, Any]] = {"classes": world.CLASSES, "palette": [list(c) for c in world.PALETTE]}

    def __init__(
        self,
        split: str,  # train, val or test: scenes of different seeds
        count: int,  # number of scenes
        domain: str = "clear",  # clear, night, fog, rain or snow
        size: tuple[int, int] = (128, 128),  # height, width [pixels]
        cache: str | Path | None = None,  # folder of rendered scenes; the second epoch reads them
    ) -> None:
        for what, value, choices in (("split", split, tuple(SEEDS)), ("domain", domain, world.DOMAINS)):
            if value not in choices:
                raise UserError(f"the miniature world has no {what} {value!r}; choose one of {', '.join(choices)}")
        self.cache = Path(cache) if cache else None
        self.places: list[Place] = [(SEEDS[split], i, domain, (size[0], size[1])) for i in range(count)]

    def __len__(self) -> int:
        return len(self.places)

    def about(self, index: int) -> dict[str, Any]:
        """`img_path`: the name of the scene, no file."""
        return {"img_path": scene_name(self.places[index])}

    def record(self, index: int) -> dict[str, Any]:
        """`image` (RGB uint8 [H, W, 3]) and `labels` (uint8 [H, W])."""
        return dict(self.arrays(self.places[index]))

    def arrays(self, place: Place) -> dict[str, np.ndarray]:
        """The image of a scene and its ground truth, from the cache if there."""
        return scene_arrays(place, self.truth, self.cache)


class WorldDepth(WorldScenes):
    """`depth` (float32 [H, W], metres, 0 = sky) in place of the labels."""

    truth = "depth"
    metainfo: ClassVar[Mapping[str, Any]] = {"task": "depth"}


class WorldExpressions(WorldScenes):
    """Referring expressions: one record per scene with all its `sentences` and `masks`, or one per expression."""

    truth = "expressions"
    metainfo: ClassVar[Mapping[str, Any]] = {"task": "referring"}

    def __init__(
        self,
        split: str,  # as in WorldScenes
        count: int,
        domain: str = "clear",
        size: tuple[int, int] = (128, 128),
        cache: str | Path | None = None,
        every: bool = False,  # one record per expression, with a `name`; renders all scenes at once
    ) -> None:
        super().__init__(split, count, domain, size, cache)
        counts = [len(self.arrays(place)["texts"]) if every else None for place in self.places]
        self.entries = entries_of(counts)

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, index: int) -> dict[str, Any]:
        """`img_path`, and the `name` of an expression."""
        scene, number = self.entries[index]
        about = super().about(scene)
        return about if number is None else {**about, "name": f"{about['img_path']}_{number}"}

    def record(self, index: int) -> dict[str, Any]:
        """`image`, `sentences` [N] and `masks` (bool [N, H, W]), or `sentence` and `mask` of one expression."""
        scene, number = self.entries[index]
        arrays = self.arrays(self.places[scene])
        name, texts = scene_name(self.places[scene]), [str(text) for text in arrays["texts"]]
        if not texts:
            raise UserError(f"{name} shows nothing that could be referred to; use larger scenes")
        if number is None:
            return {"image": arrays["image"], "sentences": texts, "masks": arrays["masks"], "key": name}
        return {"image": arrays["image"], "sentence": texts[number], "mask": arrays["masks"][number]}


def scene_name(place: Place) -> str:
    """What identifies a scene."""
    seed, index, domain, (height, width) = place
    return f"world-{domain}-{height}x{width}-{seed}-{index:06d}"


def scene_arrays(place: Place, truth: Truth, cache: Path | None = None) -> dict[str, np.ndarray]:
    """`image` (RGB uint8 [H, W, 3]) of a scene and one kind of ground truth.

    Args:
        place: which scene.
        truth: "labels" (uint8 [H, W]), "depth" (float32 [H, W], metres, 0 = sky), or "expressions": `texts` [N] and
            `masks` (bool [N, H, W]).
        cache: folder of rendered scenes; None renders anew.
    """
    path = cache and cache / _renderer() / _file_name(place, truth)
    if path and path.exists():
        with np.load(path) as stored:
            return dict(stored)
    arrays = _arrays(world.render_scene(*place), truth)
    if path:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
        write_atomic(path, buffer.getvalue())
    return arrays


def _arrays(scene: Scene, truth: Truth) -> dict[str, np.ndarray]:
    if truth != "expressions":
        return {"image": scene.image, truth: getattr(scene, truth)}
    masks = [expression.mask for expression in scene.expressions]
    return {
        "image": scene.image,
        "texts": np.array([expression.text for expression in scene.expressions], dtype=str),
        "masks": np.stack(masks) if masks else np.zeros((0, *scene.labels.shape), bool),
    }


def _file_name(place: Place, truth: Truth) -> str:
    seed, index, domain, size = place
    kind = "" if truth == "labels" else f"-{truth}"
    return f"{domain}-{size[0]}x{size[1]}-{seed}-{index:06d}{kind}.npz"


@lru_cache
def _renderer() -> str:
    """Hash of the renderer's source: scenes of another version of the world are other scenes."""
    sources = sorted(Path(world.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in sources)).hexdigest()[:12]
