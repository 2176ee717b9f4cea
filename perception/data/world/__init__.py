"""The miniature world: deterministic street scenes and objects with everything known about them."""

from perception.data.world.language import Expression, Instance
from perception.data.world.objects import ObjectImage, object_captions, render_object
from perception.data.world.scene import Scene, render_scene
from perception.data.world.vocabulary import (
    CLASSES,
    COLORS,
    DOMAINS,
    OBJECT_CLASSES,
    OBJECT_FOLDS,
    PALETTE,
    TEN_OBJECTS,
    TEST_SEED,
    TRAIN_ID,
    TRAIN_SEED,
    VAL_SEED,
)

__all__ = [
    "CLASSES",
    "COLORS",
    "DOMAINS",
    "OBJECT_CLASSES",
    "OBJECT_FOLDS",
    "PALETTE",
    "TEN_OBJECTS",
    "TEST_SEED",
    "TRAIN_ID",
    "TRAIN_SEED",
    "VAL_SEED",
    "Expression",
    "Instance",
    "ObjectImage",
    "Scene",
    "object_captions",
    "render_object",
    "render_scene",
]
