"""Several images with different numbers of candidates in common denoiser calls."""

import pytest
import torch

from perception.classification.classifier import DiffusionClassifier
from perception.classification.noise import SeededNoise
from perception.classification.prompts import class_prompts
from perception.classification.race import ErrorRequest, race_ranking, race_together
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.racing import Racing
from perception.classification.stopping.schedules import TimestepNoise

PROMPTS = ["a cat.", "a dog.", "a car.", ""]


def asking(name, shapes):
    """An image that asks for blocks of (samples, candidates), and answers with their errors."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    latent, errors = torch.randn(4, 8, 8, generator=generator), []
    for n, k in shapes:
        block = tuple(TimestepNoise(t) for t in torch.randint(0, 1000, (n,), generator=generator).tolist())
        errors.append((yield ErrorRequest(latent, name, block, torch.randperm(4, generator=generator)[:k])))
    return errors


def race(backbone, images, rows, together):
    score = DenoisingErrors(backbone, rows=rows)
    entrants = ((name, asking(name, shapes)) for name, shapes in images.items())
    return race_together(score, backbone.condition(PROMPTS), SeededNoise(), entrants, together)


def rows_of_calls(backbone, monkeypatch):
    calls, denoise = [], backbone.denoise
    monkeypatch.setattr(backbone, "denoise", lambda x_t, *rest: calls.append(len(x_t)) or denoise(x_t, *rest))
    return calls


IMAGES = {"a": [(2, 3), (3, 2)], "b": [(1, 4)], "c": [(0, 2), (3, 2), (1, 1)], "d": [(2, 3)], "e": []}


@pytest.mark.parametrize(("rows", "together"), [(3, 2), (8, 5), (64, 3)])
def test_images_raced_together_get_the_errors_that_they_get_alone(tiny_backbone, rows, together):
    found = dict(filter(None, race(tiny_backbone, IMAGES, rows, together)))
    assert list(found["e"]) == []
    for name, shapes in IMAGES.items():
        ((_, alone),) = filter(None, race(tiny_backbone, {name: shapes}, 64, 1))
        for errors, expected, (n, k) in zip(found[name], alone, shapes, strict=True):
            assert errors.shape == (n, k)
            torch.testing.assert_close(errors, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("images", "together", "expected"),
    [
        ({"a": [(10, 4)], "b": [(6, 4)]}, 2, [32, 32]),  # the second fills what the first leaves
        ({"a": [(7, 4)], "b": [(9, 4)], "c": [(1, 4)]}, 2, [32, 32, 4]),  # the third takes the place of the first
        ({"a": [(9, 4)]}, 1, [18, 18]),  # alone: of like size, a small call takes longer per row
        ({"a": [(4, 4), (4, 4)], "b": [(4, 4), (4, 4)]}, 2, [32, 32]),
        ({"a": [(4, 4), (4, 4)], "b": [(4, 4), (4, 4)]}, 1, [16, 16, 16, 16]),
        ({"a": [(0, 4)]}, 1, []),
    ],
)
def test_calls_are_full_while_there_are_images(tiny_backbone, monkeypatch, images, together, expected):
    calls = rows_of_calls(tiny_backbone, monkeypatch)
    assert {key for key, _ in filter(None, race(tiny_backbone, images, 32, together))} == set(images)
    assert calls == expected


def test_the_oldest_image_is_decided_first_and_the_next_one_is_asked_for_then(tiny_backbone):
    """A long race of one image does not hold back those before it, and images wait unread until there is room."""
    asked, events = [], []

    def entrants():
        for name in "abcd":
            asked.append(name)
            yield name, asking(name, [(4, 4), (4, 4)])

    score = DenoisingErrors(tiny_backbone, rows=16)
    for ended in race_together(score, tiny_backbone.condition(PROMPTS), SeededNoise(), entrants(), 2):
        events.append((ended and ended[0], "".join(asked)))
    assert events == [
        (None, "ab"),
        ("a", "ab"),
        (None, "abc"),
        ("b", "abc"),
        (None, "abcd"),
        ("c", "abcd"),
        (None, "abcd"),
        ("d", "abcd"),
    ]


def test_a_thousand_candidates_of_one_image_take_many_calls_and_none_of_another(tiny_backbone, monkeypatch):
    calls = rows_of_calls(tiny_backbone, monkeypatch)
    decided = [ended and ended[0] for ended in race(tiny_backbone, {"a": [(25, 4)], "b": [(25, 4)]}, 20, 2)]
    assert decided == [None] * 4 + ["a"] + [None] * 4 + ["b"] and calls == [20] * 10


def test_errors_do_not_tell_which_images_came_before(tiny_backbone):
    """To the last digit: a resumed job writes the bytes of one that was never stopped."""
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompts, alone = class_prompts(["cat", "dog", "red car", "bus"]), ["c", "d"]
    whole, resumed = (DiffusionClassifier(tiny_backbone, prompts, Racing(30), rows=7) for _ in range(2))
    whole.classify_latents(latents[:2], ["a", "b"])
    for one, other in zip(
        whole.classify_latents(latents[2:], alone), resumed.classify_latents(latents[2:], alone), strict=True
    ):
        assert torch.equal(one.table.errors.nan_to_num(), other.table.errors.nan_to_num())


def test_races_of_a_batch_equal_single_races(tiny_backbone):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    classifier = DiffusionClassifier(tiny_backbone, class_prompts(["cat", "dog", "red car", "bus"]), Racing(30))
    together = classifier.classify_latents(latents, ["a", "b", "c"])
    alone = [classifier.classify_latents(latents[i : i + 1], [name])[0] for i, name in enumerate("abc")]
    assert [(r.alive, r.stop, r.evaluations) for r in together] == [(r.alive, r.stop, r.evaluations) for r in alone]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.table.errors, other.table.errors, rtol=1e-5, atol=0, equal_nan=True)


def test_the_ranking_of_a_race_goes_by_who_stayed():
    alive = [(0, 1, 2, 3, 4), (3, 1, 0), (1,)]
    errors = [0.9, 0.5, 0.4, 0.8, 0.3]  # 2 and 4 left first, on other samples
    assert race_ranking(alive, errors, range(5)) == [1, 3, 0, 4, 2]
    assert race_ranking(alive, errors, [0, 0, 1, 1, 2]) == [0, 1, 2]  # two templates each for classes 0 and 1
