"""Label maps, prompts, rare classes, crops and components."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception.errors import UserError
from perception.generation import sampling
from perception.generation.crops import below, centre_box, class_box, cut, random_box
from perception.generation.domains import own_templates, templates_of
from perception.generation.labels import (
    CITYSCAPES,
    Vocabulary,
    check_label_map,
    class_counts,
    colour_picture,
    large_components,
    mask_on_latents,
    one_hot,
)
from perception.generation.prompts import PromptBuilder
from perception.generation.sampling import (
    LabelCounts,
    RareClassSampler,
    class_probabilities,
    read_statistics,
    statistics_rows,
)


def test_one_hot_leaves_its_input_alone(street: np.ndarray) -> None:
    before = street.copy()
    encoded = one_hot(street, 19)
    assert np.array_equal(street, before)
    assert encoded.shape == (20, *street.shape)
    assert torch.equal(encoded.sum(0), torch.ones(street.shape))
    assert np.array_equal(encoded[19].numpy() == 1, street == 255)


def test_any_vocabulary() -> None:
    words = Vocabulary(("sky", "tree", "path"))
    assert words.channels == 4 and words.id_of("tree") == 1
    with pytest.raises(UserError, match="'cow' is not in the vocabulary; there are: sky, tree, path"):
        words.id_of("cow")
    with pytest.raises(UserError, match="names a class twice"):
        Vocabulary(("sky", "sky"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"the shape \[4, 4, 3\]"),
        (np.full((4, 4), 0.5, np.float32), r"float32 values such as 0\.5"),
        (np.full((4, 4), 19, np.uint8), r"holds the class ids \[19\]"),
    ],
)
def test_wrong_label_maps(labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_label_map(labels, 19)


def test_every_class_has_its_colour_and_ignored_pixels_are_black(street: np.ndarray) -> None:
    picture = colour_picture(street, CITYSCAPES.palette)
    for label in np.unique(street):
        colour = (0, 0, 0) if label == 255 else tuple(CITYSCAPES.palette[label])
        assert (picture[street == label] == colour).all()


def test_prompts_are_drawn_from_the_given_stream(street: np.ndarray) -> None:
    build = PromptBuilder(CITYSCAPES.names)
    texts = [build(street, np.random.default_rng(i)) for i in range(400)]
    assert texts == [build(street, np.random.default_rng(i)) for i in range(400)]
    plain = sum(prompt.domain is None for prompt in texts)
    assert 150 < plain < 250
    assert {prompt.domain for prompt in texts} == {None, *build.templates}
    assert texts[0].text.count("road building pole sky car") == 1


def test_prompt_errors(street: np.ndarray) -> None:
    build = PromptBuilder(CITYSCAPES.names, {"fog": "{names} in fog"})
    assert build(street, np.random.default_rng(0), "fog").text == "road building pole sky car in fog"
    with pytest.raises(UserError, match="the domain 'hail' has no template; there are: fog"):
        build(street, np.random.default_rng(0), "hail")
    for wrong in ("{classes} in fog", "{names.x} in fog", "{names[a]} in fog"):
        with pytest.raises(UserError, match=r"its only field is \{names\}"):
            PromptBuilder(CITYSCAPES.names, {"fog": wrong})


def test_own_templates_may_leave_the_class_names_out(street: np.ndarray) -> None:
    own = own_templates(["fog = A street in fog.", "dawn=Early: {names}"])
    build = PromptBuilder(CITYSCAPES.names, templates_of(["fog", "dawn"], own))
    assert build(street, np.random.default_rng(0), "fog").text == "A street in fog."
    assert build(street, np.random.default_rng(0), "dawn").text == "Early: road building pole sky car"
    for wrong in ("fog", "fog=", "=A street."):
        with pytest.raises(UserError, match="is not usable; expected NAME=TEXT"):
            own_templates([wrong])


def _statistics() -> list[LabelCounts]:
    return [LabelCounts("a", {0: 90_000, 5: 4_000}), LabelCounts("b", {0: 95_000}), LabelCounts("c", {0: 80_000, 7: 9})]


def test_rare_classes_are_drawn_more_often() -> None:
    classes, probabilities = class_probabilities(_statistics(), 0.1)
    assert classes == (7, 5, 0)
    assert probabilities.sum() == pytest.approx(1) and np.all(np.diff(probabilities) < 0)
    sampler = RareClassSampler(_statistics(), 0.1)
    assert sampler.classes == [5, 0]  # no file has 3000 pixels of class 7
    assert sampler.probabilities.sum() == pytest.approx(1)


def test_selection_ends() -> None:
    sampler = RareClassSampler(_statistics(), 1.0)
    chosen = sampler.select(3, np.random.default_rng(0))
    assert sorted(file for file, _ in chosen) == ["a", "b", "c"]
    with pytest.raises(UserError, match="4 different label maps were asked for, but only 3 can be drawn"):
        sampler.select(4, np.random.default_rng(0))
    for temperature in (0, math.nan, math.inf):
        with pytest.raises(UserError, match="needs a finite temperature above 0"):
            RareClassSampler(_statistics(), temperature)
    with pytest.raises(UserError, match="no label map has more than 1000000 pixels"):
        RareClassSampler(_statistics(), min_pixels=1_000_000)


def test_crops_hold_the_class_and_stay_inside(street: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for label in (0, 5, 13):
        box = class_box(street, label, (64, 96), below(rng))
        assert cut(street, box).shape == (64, 96)
        assert label in cut(street, box)
    assert centre_box(street.shape, (64, 96)) == (8, 8, 104, 72)
    left, top, right, bottom = random_box(street.shape, (64, 96), below(rng))
    assert (right - left, bottom - top) == (96, 64) and right <= 112 and bottom <= 80


def test_every_pixel_of_a_class_can_be_drawn(street: np.ndarray) -> None:
    street[0, 0] = 11  # a single pixel
    assert class_box(street, 11, (64, 96), below(np.random.default_rng(0))) == (0, 0, 96, 64)


def test_crop_errors(street: np.ndarray) -> None:
    draw = below(np.random.default_rng(0))
    with pytest.raises(UserError, match="112 x 80 pixels and a crop of 512 x 512 does not fit"):
        class_box(street, 0, (512, 512), draw)
    with pytest.raises(UserError, match="no pixel of class 18"):
        class_box(street, 18, (64, 64), draw)


def test_components(street: np.ndarray) -> None:
    small = (street != 255) & ~large_components(street, 300)
    assert np.array_equal(small, street == 5)
    assert not (large_components(street, 300) & (street == 255)).any()
    assert class_counts(street, 19)[5] == small.sum()


def test_components_touch_at_corners() -> None:
    labels = np.kron(np.eye(2, dtype=np.uint8), np.ones((4, 4), np.uint8))  # two blocks of each class, corner to corner
    assert large_components(labels, 31).all()
    assert not large_components(labels, 32).any()


def test_masks_take_the_nearest_pixel() -> None:
    mask = np.zeros((2, 32, 32), bool)
    mask[0, ::8, ::8] = True
    assert mask_on_latents(mask, (4, 4))[0].all()
    assert not mask_on_latents(mask, (4, 4))[1].any()


def test_only_whole_numbers_are_class_ids() -> None:
    exact = check_label_map(np.array([[0, 18], [255, 3]], np.int64), 19)
    assert exact.dtype == np.uint8 and exact.tolist() == [[0, 18], [255, 3]]
    for wrong in (np.full((4, 4), -1, np.int16), np.full((4, 4), 300, np.uint16), np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(UserError, match="every pixel must be a whole class id"):
            check_label_map(wrong, 19)
    with pytest.raises(UserError, match="no whole numbers; expected class ids"):
        one_hot(np.full((4, 4), 0.5, np.float32), 19)
    given = torch.full((2, 2), 255)
    one_hot(given, 19)
    assert given.eq(255).all()


def test_a_map_qualifies_for_a_class_with_more_pixels_than_the_least_number():
    statistics = [LabelCounts(name, {0: count}) for name, count in (("less", 99), ("just", 100), ("more", 101))]
    sampler = RareClassSampler(statistics, 1.0, min_pixels=100)
    assert sampler.files == {0: ["more"]} and sampler.select(1, np.random.default_rng(0)) == [("more", 0)]
    with pytest.raises(UserError, match="2 different label maps were asked for, but only 1 can be drawn"):
        sampler.select(2, np.random.default_rng(0))
    with pytest.raises(UserError, match="no label map has more than 101 pixels of any class"):
        RareClassSampler(statistics, 1.0, min_pixels=101)
    assert len(RareClassSampler(statistics, 1.0, min_pixels=98).select(3, np.random.default_rng(0))) == 3


def test_probabilities_of_few_pixels_are_exact():
    classes, probabilities = class_probabilities([LabelCounts("a", {2: 1, 4: 2}), LabelCounts("b", {4: 1})], 1.0)
    assert classes == (2, 4)
    np.testing.assert_allclose(probabilities, np.exp([0.75, 0.25]) / np.exp([0.75, 0.25]).sum(), rtol=1e-6)


def test_statistics_are_read_as_they_were_written():
    assert read_statistics(statistics_rows(_statistics())) == _statistics()


class _Rigged:
    """Draws files by a list, and says how many draws there were."""

    def __init__(self, files: list[int]) -> None:
        self.files, self.draws = files, 0

    def choice(self, count: int, p: object = None) -> int:
        if p is not None:
            return 0
        self.draws += 1
        return self.files[min(self.draws, len(self.files)) - 1]


def test_draws_without_a_new_file_end(monkeypatch):
    monkeypatch.setattr(sampling, "_IDLE_DRAWS", 3)
    sampler = RareClassSampler([LabelCounts(name, {0: 10}) for name in "abc"], 1.0, min_pixels=1)
    late = _Rigged([0, 0, 0, 0, 1, 1, 1, 1, 2])  # three idle draws before each new file
    assert [file for file, _ in sampler.select(3, late)] == ["a", "b", "c"] and late.draws == 9
    stuck = _Rigged([0])
    with pytest.raises(UserError, match="only 1 can be drawn"):
        sampler.select(2, stuck)
    assert stuck.draws == 5, "a new file, and four draws without one"
