"""Rounds before the race on a tiny backbone: they save evaluations, never decide, and change nothing when off."""

import pytest
import torch

from perception.classification.classifier import DiffusionClassifier
from perception.classification.few_shot import ClassTokens
from perception.classification.prompts import class_prompts
from perception.classification.race import NOT_FINITE
from perception.classification.racing import PairedT
from perception.classification.schedule import Exhaustive, FixedSchedule
from perception.classification.screening import Screens
from perception.errors import UserError

CLASSES = class_prompts([f"thing {i}" for i in range(9)])
TEMPLATES = class_prompts([f"thing {i}" for i in range(6)], ["a {}.", "my {}"])
RULE = Exhaustive(4)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def small():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(4))


def test_preselecting_all_classes_changes_nothing(tiny_backbone, latents):
    plain = DiffusionClassifier(tiny_backbone, CLASSES, RULE).classify_latents(latents, ["a", "b"])
    all_race = DiffusionClassifier(tiny_backbone, CLASSES, RULE, screens=Screens(9)).classify_latents(
        latents, ["a", "b"]
    )
    for before, after in zip(plain, all_race, strict=True):
        assert torch.equal(before.table.errors, after.table.errors)
        assert (after.label, after.evaluations, after.alive) == (before.label, before.evaluations, before.alive)
        assert after.screened.tree_evaluations == after.screened.small_evaluations == 0


@pytest.mark.parametrize("prompts", [CLASSES, TEMPLATES])
def test_a_preselection_saves_evaluations_and_keeps_the_best_clusters(tiny_backbone, latents, prompts):
    classifier = DiffusionClassifier(tiny_backbone, prompts, RULE, screens=Screens(3, tree_samples=2))
    full = DiffusionClassifier(tiny_backbone, prompts, RULE)
    per_class = len(prompts) // len(prompts.names)
    for result in classifier.classify_latents(latents, ["a", "b"]):
        assert result.evaluations == 3 * per_class * 4
        assert result.screened.tree_evaluations == 3 * per_class * 2  # ceil(sqrt(9)) = ceil(sqrt(6)) = 3 medoids
        assert sorted(result.screened.order) == list(range(len(prompts.names)))
        raced = {classifier.candidates[c].class_id for c in result.screened.starters}
        assert raced == set(result.screened.order[:3])
        assert result.class_id in raced
        assert result.evaluations + result.screened.tree_evaluations < full.most_evaluations
    assert classifier.most_evaluations == 3 * per_class * 4
    assert classifier.screening.most_evaluations() == (3 * per_class * 2, 0)


def test_the_race_of_a_preselection_has_the_errors_of_the_plain_one(tiny_backbone, latents):
    plain = DiffusionClassifier(tiny_backbone, CLASSES, RULE).classify_latents(latents[:1], ["a"])[0]
    some = DiffusionClassifier(tiny_backbone, CLASSES, RULE, screens=Screens(4)).classify_latents(latents[:1], ["a"])[0]
    kept = list(some.screened.starters)
    torch.testing.assert_close(some.table.errors[kept], plain.table.errors[kept], rtol=1e-5, atol=0)
    assert some.candidate == min(kept, key=lambda c: plain.errors[c])


def test_the_small_image_goes_first_and_never_decides(tiny_backbone, latents, small):
    rule = FixedSchedule((4, 8), (2, 1))
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, rule, screens=Screens(small_samples=4))
    for result in classifier.classify_latents(latents, ["a", "b"], small=small):
        assert result.screened.small_evaluations == 9 * 4
        assert len(result.screened.starters) == 2
        assert result.evaluations == 2 * 8
        assert result.alive[0] == result.screened.starters
        assert sorted(result.screened.order) == list(range(9))
    whole = DiffusionClassifier(tiny_backbone, CLASSES, rule, screens=Screens(small_samples=8))
    for result in whole.classify_latents(latents, ["a", "b"], small=small):  # its rule ends with one candidate
        assert len(result.screened.starters) == 2
        assert result.margin.samples == 8
    assert whole.screening.most_evaluations() == (0, 9 * 4 + 2 * 4)


def test_both_rounds_and_a_race(tiny_backbone, latents, small):
    screens = Screens(4, tree_samples=2, small_samples=8)
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, PairedT(20), screens=screens)
    (result,) = classifier.classify_latents(latents[:1], ["a"], small=small[:1])
    assert result.screened.tree_evaluations == 3 * 2
    assert 4 * PairedT.first <= result.screened.small_evaluations <= 4 * 8
    assert set(result.screened.starters) <= set(range(9)) and 2 <= len(result.screened.starters) <= 4
    assert result.margin is not None


def test_an_image_whose_errors_are_not_finite_does_not_race(tiny_backbone, latents, small):
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, PairedT(20), screens=Screens(4, 2, 8))
    (alone,) = classifier.classify_latents(latents[1:], ["b"], small=small[1:])
    small = torch.cat([torch.full_like(small[:1], float("inf")), small[1:]])
    lost, good = classifier.classify_latents(latents, ["a", "b"], small=small)
    assert (lost.survivors, lost.evaluations, lost.stop) == ((), 0, NOT_FINITE)
    assert (good.label, good.evaluations) == (alone.label, alone.evaluations)


def test_learned_tokens_fit_any_number_of_prompts(tiny_backbone, latents):
    untrained = ClassTokens.beside(tiny_backbone.condition(TEMPLATES.prompts[::2]), 2)
    classifier = DiffusionClassifier(tiny_backbone, TEMPLATES, Exhaustive(1), tokens=untrained)
    assert classifier.condition.hidden.shape[:2] == (12, 77 + 2)
    assert torch.equal(classifier.condition.hidden[0, -2:], classifier.condition.hidden[1, -2:])
    (result,) = classifier.classify_latents(latents[:1], ["a"])
    assert result.label in TEMPLATES.names


def test_bad_rounds_get_one_sentence(tiny_backbone, latents):
    with pytest.raises(UserError, match="a preselection of 1 classes leaves nothing to compare"):
        Screens(1)
    with pytest.raises(UserError, match="needs 1 sample or more"):
        Screens(small_samples=0)
    with pytest.raises(UserError, match="the method exhaustive has no rounds"):
        DiffusionClassifier(tiny_backbone, CLASSES, RULE, screens=Screens(small_samples=4))
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, PairedT(20), screens=Screens(small_samples=4))
    with pytest.raises(UserError, match="needs the images at a smaller size"):
        classifier.classify_latents(latents, ["a", "b"])
