"""The race of candidates on a tiny backbone: pooling, batching, noise, and a rule written against the interface."""

from dataclasses import dataclass

import pytest
import torch

from perception.backbones import DiffusionBackbone
from perception.classification import classifier
from perception.classification.classifier import DiffusionClassifier
from perception.classification.few_shot import ClassTokens
from perception.classification.noise import SeededNoise
from perception.classification.prompts import PromptSet, class_prompts
from perception.classification.race import NOT_FINITE
from perception.classification.stopping.racing import Racing
from perception.classification.stopping.schedules import Decision, Exhaustive, FixedSchedule, TimestepNoise
from perception.errors import UserError

CLASSES = class_prompts(["cat", "dog", "red car"])
TEMPLATES = class_prompts(["cat", "dog"], ["a {}.", "my {}, a photo"])


@pytest.fixture(scope="module")
def latents():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def test_images_in_labels_out(tiny_backbone):
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, FixedSchedule((2, 4), (2, 1)))
    (result,) = classifier(images, ["x"])
    assert result.label == CLASSES.names[result.class_id]
    assert result.evaluations == 3 * 2 + 2 * 2
    assert [len(alive) for alive in result.alive] == [3, 2, 1]
    assert result.margin.mean > 0
    assert result.margin.samples == 4
    assert result.margin.rival in result.alive[1]


def test_a_stage_without_new_samples_only_drops(tiny_backbone, latents):
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, FixedSchedule((2, 2), (2, 1)))
    (result,) = classifier.classify_latents(latents[:1], ["a"])
    assert result.evaluations == 3 * 2
    assert [len(alive) for alive in result.alive] == [3, 2, 1]


def test_images_together_equal_one_by_one(tiny_backbone, latents):
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, FixedSchedule((2, 4), (2, 1)), rows=7)
    together = classifier.classify_latents(latents, ["a", "b", "c"])
    for i, name in enumerate("abc"):
        (alone,) = classifier.classify_latents(latents[i : i + 1], [name])
        assert alone.alive == together[i].alive
        torch.testing.assert_close(alone.table.errors, together[i].table.errors, rtol=1e-5, atol=0, equal_nan=True)


def test_rules_share_the_noise_of_a_timestep(tiny_backbone, latents):
    """So that a saving rule and the exhaustive grid answer from the same samples."""
    staged = FixedSchedule((2, 4), (3, 1))
    full = DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(4)).classify_latents(latents[:1], ["a"])[0]
    part = DiffusionClassifier(tiny_backbone, CLASSES, staged).classify_latents(latents[:1], ["a"])[0]
    order = {s.timestep: k for k, s in enumerate(Exhaustive(4).blocks(1000)[0])}
    columns = [order[s.timestep] for block in staged.blocks(1000) for s in block]
    torch.testing.assert_close(part.table.errors, full.table.errors[:, columns], rtol=1e-5, atol=0)
    assert part.label == full.label


def test_pooling_over_templates(tiny_backbone, latents):
    def classify(pool):
        classifier = DiffusionClassifier(tiny_backbone, TEMPLATES, Exhaustive(3), pool=pool)
        return classifier, classifier.classify_latents(latents[:1], ["a"])[0]

    (best, single), (_, errors), (_, embeddings) = map(classify, ("max", "mean_error", "mean_embed"))
    assert [c.name for c in best.candidates] == list(TEMPLATES.prompts)
    assert (single.evaluations, errors.evaluations, embeddings.evaluations) == (12, 12, 6)
    averaged = single.table.errors.view(2, 2, 3).mean(1)
    torch.testing.assert_close(errors.table.errors, averaged, rtol=1e-5, atol=0)
    hidden = tiny_backbone.condition(TEMPLATES.prompts).hidden.unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(classify("mean_embed")[0].condition.hidden, hidden)
    assert single.margin.rival in TEMPLATES.rows(1 - single.class_id)


def test_embeddings_are_averaged_a_few_classes_at_a_time(tiny_backbone, monkeypatch):
    prompts = class_prompts(["cat", "dog", "red car"], ["a {}.", "my {}, a photo"])
    whole = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(3), pool="mean_embed").condition
    told = tiny_backbone.condition(prompts.prompts)
    assert torch.equal(whole.hidden, told.averaged([(0, 1), (2, 3), (4, 5)]).hidden)
    monkeypatch.setattr(classifier, "_AVERAGED", 2)
    encode, rows = DiffusionBackbone.condition, []
    monkeypatch.setattr(DiffusionBackbone, "condition", lambda self, p: rows.append(len(p)) or encode(self, p))
    parts = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(3), pool="mean_embed").condition
    assert torch.equal(parts.hidden, whole.hidden)
    assert rows == [4, 2]


@dataclass(frozen=True)
class _DropFarBehind:
    """A racing rule: blocks of one sample, drop whoever is behind the leader by more than a fixed gap."""

    gap: float
    name = "gap"

    def blocks(self, num_train_timesteps):
        return tuple((TimestepNoise(t, 0, i),) for i, t in enumerate((500, 250, 750, 125, 625)))

    def most_rows(self, costs):
        return (sum(costs),) * 5

    def decide(self, block, table):
        order, means = table.ranked(table.alive), table.means()
        alive = tuple(c for c in order if means[c] - means[order[0]] <= self.gap)
        return Decision(alive, "separated" if len(alive) == 1 else None)


@pytest.mark.parametrize("pool", ["max", "mean_error"])
def test_other_rules_need_nothing_but_the_interface(tiny_backbone, latents, pool):
    prompts = PromptSet(
        ("a cat.", "a dog.", "dogs", "a car.", ""), (0, 1, 1, 2, 3), ("cat", "dog", "car", "-"), (0, 1, 2, 3)
    )
    classifier = DiffusionClassifier(tiny_backbone, prompts, _DropFarBehind(2e-2), pool=pool)
    together = classifier.classify_latents(latents, ["a", "b", "c"])
    alone = [classifier.classify_latents(latents[i : i + 1], [name])[0] for i, name in enumerate("abc")]
    assert [r.alive for r in together] == [r.alive for r in alone]
    assert len({r.evaluations for r in together}) > 1  # images leave at different times
    assert {r.stop for r in together} <= {"separated", "all samples used"}
    full = DiffusionClassifier(tiny_backbone, prompts, _DropFarBehind(9.0), pool=pool)
    assert full.classify_latents(latents[:1], ["a"])[0].evaluations == 5 * len(prompts)


def test_equal_prompts_tie_and_the_first_wins(tiny_backbone, latents):
    prompts = PromptSet(("a cat.", "a cat."), (0, 1), ("one", "two"), (0, 1))
    classifier = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(2))
    (result,) = classifier.classify_latents(latents[:1], ["a"])
    assert [candidate.name for candidate in classifier.candidates] == ["a cat. (one)", "a cat. (two)"]
    assert result.label == "one"
    assert result.margin.mean == pytest.approx(0, abs=1e-6)


def test_a_hundred_prompts_race(tiny_backbone, latents):
    prompts = class_prompts([f"thing {i}" for i in range(100)])
    classifier = DiffusionClassifier(tiny_backbone, prompts, Racing(9), rows=100)
    (result,) = classifier.classify_latents(latents[:1, :, :2, :2], ["a"])
    assert 100 * Racing.first <= result.evaluations <= 900
    assert result.survivors[0] == result.candidate


def broken(image_id, sample, shape):
    """Infinite from the second sample on, for one image."""
    eps = SeededNoise()(image_id, sample, shape)
    return eps * float("inf") if image_id == "photo" and sample.index else eps


@pytest.mark.parametrize("rule", [FixedSchedule((4, 12), (2, 1)), Racing(20), Exhaustive(5)])
def test_the_most_evaluations_count_the_prompts_of_pooled_classes(tiny_backbone, latents, rule):
    """Three classes of 6, 4 and 1 prompts, of which the two largest may be left after a stage."""
    prompts = PromptSet(tuple(map(str, range(11))), (0,) * 6 + (1,) * 4 + (2,), ("a", "b", "c"), (0, 1, 2))
    classifier = DiffusionClassifier(tiny_backbone, prompts, rule, pool="mean_error")
    (result,) = classifier.classify_latents(latents[:1], ["a"])
    assert classifier.most_evaluations == {"fixed": 11 * 4 + 10 * 8, "racing": 11 * 20, "exhaustive": 11 * 5}[rule.name]
    assert result.evaluations <= classifier.most_evaluations


def test_errors_that_are_not_finite_give_no_answer_and_cost_the_others_nothing(tiny_backbone, latents):
    classifier = DiffusionClassifier(tiny_backbone, CLASSES, _DropFarBehind(9.0))
    lost, good = classifier.classify_latents(latents[:2], ["photo", "b"], broken)
    assert (lost.label, lost.survivors, lost.margin, lost.stop) == ("", (), None, NOT_FINITE)
    assert lost.evaluations == 3
    (alone,) = classifier.classify_latents(latents[1:2], ["b"])
    assert good.label == alone.label
    assert good.errors == pytest.approx(alone.errors, rel=1e-5)
    with pytest.raises(UserError, match="errors of photo are not finite; run the backbone in float32 or bfloat16"):
        classifier(torch.zeros(1, 3, 64, 64), ["photo"], broken)


def test_bad_pooling_gets_one_sentence(tiny_backbone):
    with pytest.raises(UserError, match="unknown pooling 'min'; choose one of max, mean_error, mean_embed"):
        DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(1), pool="min")


def test_learned_tokens_fit_any_number_of_prompts(tiny_backbone, latents):
    prompts = class_prompts([f"thing {i}" for i in range(6)], ["a {}.", "my {}"])
    untrained = ClassTokens.beside(tiny_backbone.condition(prompts.prompts[::2]), 2)
    classifier = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(1), tokens=untrained)
    assert classifier.condition.hidden.shape[:2] == (12, 77 + 2)
    assert torch.equal(classifier.condition.hidden[0, -2:], classifier.condition.hidden[1, -2:])
    (result,) = classifier.classify_latents(latents[:1], ["a"])
    assert result.label in prompts.names
