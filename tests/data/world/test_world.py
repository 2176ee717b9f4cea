"""The miniature world: deterministic, complete, and true to its own labels."""

import hashlib

import numpy as np
import pytest

from perception.data.world import (
    CLASSES,
    DOMAINS,
    OBJECT_CLASSES,
    OBJECT_FOLDS,
    PALETTE,
    TEN_OBJECTS,
    TRAIN_ID,
    object_captions,
    render_object,
    render_scene,
)
from perception.errors import UserError


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_scene_is_a_function_of_its_arguments(domain: str) -> None:
    first, second = render_scene(5, 3, domain), render_scene(5, 3, domain)
    assert digest(first.image) == digest(second.image)
    assert first.captions == second.captions
    assert digest(first.image) != digest(render_scene(5, 4, domain).image)


def test_domains_show_the_same_place() -> None:
    scenes = [render_scene(1, 2, domain) for domain in DOMAINS]
    assert len({digest(scene.labels) for scene in scenes}) == 1
    assert len({digest(scene.depth) for scene in scenes}) == 1
    assert len({digest(scene.image) for scene in scenes}) == len(DOMAINS)


def test_layouts_ranges_and_sizes() -> None:
    scene = render_scene(0, 0, size=(96, 160))
    assert scene.image.shape == (96, 160, 3) and scene.image.dtype == np.uint8
    assert scene.labels.shape == scene.depth.shape == scene.instance_map.shape == (96, 160)
    assert set(np.unique(scene.labels)) <= set(range(len(CLASSES)))
    sky = scene.labels == TRAIN_ID["sky"]
    assert (scene.depth[sky] == 0).all()
    assert (scene.depth[~sky] > 0.3).all() and scene.depth.max() <= 120


def test_instances_and_expressions_agree_with_the_maps() -> None:
    for index in range(6):
        scene = render_scene(2, index)
        for item in scene.instances:
            mask = scene.instance_map == item.number
            assert mask.sum() == item.pixels
            assert (scene.labels[mask] == TRAIN_ID[item.category]).all()
            rows, columns = np.nonzero(mask)
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert len({expression.text for expression in scene.expressions}) == len(scene.expressions)
        for expression in scene.expressions:
            assert expression.mask.any()


def test_every_class_occurs() -> None:
    seen: set[int] = set()
    for index in range(60):
        seen |= set(np.unique(render_scene(0, index, size=(64, 128)).labels))
    assert seen == set(range(len(CLASSES)))


def test_objects_are_deterministic_and_masked() -> None:
    for index, category in enumerate(OBJECT_CLASSES):
        drawn = render_object(3, index)
        assert drawn.category == category
        assert digest(drawn.image) == digest(render_object(3, index).image)
        assert 0.01 < drawn.mask.mean() < 0.8
        assert category in OBJECT_FOLDS[drawn.fold]
        assert drawn.captions == object_captions(category, drawn.color)


def test_vocabulary_is_consistent() -> None:
    assert len(PALETTE) == len(CLASSES) == 19
    assert len(set(OBJECT_CLASSES)) == len(OBJECT_CLASSES) == 24
    assert set(TEN_OBJECTS) <= set(OBJECT_CLASSES) and len(TEN_OBJECTS) == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render_scene(0, 0, "sandstorm"), "unknown domain 'sandstorm'; the miniature world has: clear"),
        (lambda: render_scene(0, 0, size=(32, 128)), "scenes need at least 64 x 64 px, got 32 x 128"),
        (lambda: render_object(0, 0, "unicorn"), "unknown object category 'unicorn'"),
        (lambda: render_object(0, 0, size=8), "object images need at least 32 px, got 8"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
