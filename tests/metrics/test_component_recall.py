"""Objects found again, by size."""

import json

import numpy as np
import pytest

from perception.errors import UserError
from perception.metrics import ComponentRecall

IDS = {"pole": 5, "car": 13}


def street():
    """A pole of 4 pixels, one of 10 that touches nothing, a car of 64."""
    labels = np.zeros((20, 20), np.uint8)
    labels[0:4, 0] = 5
    labels[0:10, 4] = 5
    labels[8:16, 8:16] = 13
    return labels


def test_half_of_the_pixels_decide():
    labels = street()
    seen = labels.copy()
    seen[0:2, 0] = 0  # 2 of 4 left: recalled
    seen[0:6, 4] = 0  # 4 of 10 left: missed
    seen[8:12, 8:16] = 5  # 32 of 64 left: recalled, though other pixels are called pole
    state = ComponentRecall.of(labels, seen, IDS, areas=(8, 64))
    assert state.components.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert state.recalled.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert state.to_json()["classes"]["pole"]["recall"] == [1.0, 0.0, None]
    seen[8, 8:16], seen[12, 8] = 5, 0  # 31 of 64
    assert ComponentRecall.of(labels, seen, IDS, areas=(8, 64)).recalled[1].tolist() == [0, 0, 0]


def test_corners_connect_and_ignored_pixels_are_no_component():
    labels = np.full((4, 4), 255, np.uint8)
    labels[0, 0] = labels[1, 1] = labels[2, 2] = 5
    state = ComponentRecall.of(labels, labels, {"pole": 5, "ignored": 255}, areas=(2,))
    assert state.components.tolist()[0] == [0, 1] and state.recalled.tolist()[0] == [0, 1]


@pytest.mark.parametrize("bound", [64, 256, 1024, 4096])
def test_an_area_at_a_bound_is_in_the_larger_bucket(bound):
    """By default the bounds are 64, 256, 1024 and 4096 pixels."""
    labels = np.zeros((80, 64), np.uint8)
    labels.flat[:bound] = 5
    at = ComponentRecall.of(labels, labels, {"pole": 5}).components[0].tolist()
    labels.flat[0] = 0
    below = ComponentRecall.of(labels, labels, {"pole": 5}).components[0].tolist()
    bucket = [64, 256, 1024, 4096].index(bound)
    assert (at.index(1), below.index(1)) == (bucket + 1, bucket)


def test_another_count_agrees():
    """Flood fill by hand on random maps."""
    random = np.random.default_rng(0)
    labels, seen = (random.integers(0, 3, (12, 15)).astype(np.uint8) for _ in range(2))
    state = ComponentRecall.of(labels, seen, {"a": 0, "b": 1, "c": 2}, areas=(2, 5))
    wanted = np.zeros((2, 3, 3), int)
    left = {(y, x) for y in range(12) for x in range(15)}
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            same = {place for place in near if labels[place] == labels[y, x]}
            left -= same
            stack += same
        label = labels[region[0]]
        bucket = sum(len(region) >= area for area in (2, 5))
        wanted[0, label, bucket] += 1
        wanted[1, label, bucket] += 2 * sum(seen[place] == label for place in region) >= len(region)
    assert state.components.tolist() == wanted[0].tolist() and state.recalled.tolist() == wanted[1].tolist()


def test_states_add_survive_json_and_print():
    one = ComponentRecall.of(street(), street(), IDS, areas=(8, 64))
    total = ComponentRecall.empty(("pole", "car"), (8, 64)) + one + one
    assert total.components.sum() == 6
    again = ComponentRecall.from_json(json.loads(json.dumps(total.to_json())))
    assert again.names == total.names and np.array_equal(again.recalled, total.recalled)
    lines = total.table("title").splitlines()
    assert lines[0] == "title" and lines[1].split() == ["class", "<8", "8-63", ">=64"]
    assert lines[2].split() == ["pole", "100.0", "%", "of", "2", "100.0", "%", "of", "2", "-"]
    assert ComponentRecall.empty(("a",), ()).buckets == ("all",)


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match="resize the prediction to the label map first"):
        ComponentRecall.of(street(), street()[:5], IDS)
    with pytest.raises(UserError, match="give them in rising order"):
        ComponentRecall.empty(("a",), (64, 8))
    with pytest.raises(UserError, match="cannot be added"):
        ComponentRecall.empty(("a",), (8,)) + ComponentRecall.empty(("b",), (8,))
