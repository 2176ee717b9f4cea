"""Temperature and timestep weights learned from recorded errors."""

import pytest
import torch

from perception.classification.learned import Learned, class_leads, learn
from perception.classification.replay import Recorded
from perception.classification.table import ErrorTable
from perception.errors import UserError

STEPS = tuple(range(50, 1000, 100))


def images(count=60, gap=0.3, informative=slice(3, 6)):
    """Three classes whose true one has smaller errors, at a few timesteps only."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        errors = torch.randn(3, 10, generator=generator) + 4 * torch.randn(10, generator=generator)
        errors[number % 3, informative] -= gap * 3
        made.append(Recorded(errors, STEPS, (0, 1, 2), number % 3))
    return made


def table_of(image, weights=None):
    table = ErrorTable(*image.errors.shape, image.classes, weights=weights)
    table.add(image.errors)
    return table


def test_a_temperature_gives_probabilities_that_match_the_hits():
    made = images(300)
    learned = learn(made)
    probabilities = torch.stack([learned.probabilities(table_of(image)) for image in made])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(300, dtype=torch.float64))
    confidence, guess = probabilities.max(1)
    hits = guess == torch.tensor([image.truth for image in made])
    assert confidence.mean().item() == pytest.approx(hits.double().mean().item(), abs=0.05)


def test_weights_find_the_timesteps_that_matter():
    made = images(300)
    learned = learn(made, weigh_timesteps=True)
    assert sum(learned.weights) / 10 == pytest.approx(1)
    assert min(learned.weights[3:6]) > max(learned.weights[:3] + learned.weights[6:])
    fresh = images(301)[-1:] + images(400)[301:]
    right = {}
    for name, weights in (("plain", None), ("weighted", learned.weight(STEPS))):
        answers = [table_of(image, weights).ranked((0, 1, 2))[0] == image.truth for image in fresh]
        right[name] = sum(answers)
    assert right["weighted"] > right["plain"]
    assert learned.weight([50, 100, 5000]).tolist() == pytest.approx(
        [learned.weights[0], sum(learned.weights[:2]) / 2, learned.weights[-1]]
    )


def test_leads_are_comparable_after_a_race_and_pool_the_best_prompt():
    errors = torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.5, float("nan")], [1.25, float("nan"), float("nan")]])
    assert class_leads(errors, (0, 1, 1)).tolist() == pytest.approx([0.0, 0.25])


def test_no_class_leads_the_winner():
    """Class 1 left early, in front of the later winner on its only sample; class 2 is behind on all."""
    nan = float("nan")
    errors = torch.tensor([[1.0, 0.1, 0.1], [0.5, nan, nan], [1.25, 0.5, nan]])
    assert class_leads(errors, (0, 1, 2)).tolist() == pytest.approx([0.0, 0.0, 0.325])
    table = ErrorTable(3, 3)
    table.errors = errors
    probabilities = Learned(5.0).probabilities(table)
    assert probabilities[0] == probabilities[1] == probabilities.max()


def test_weights_enter_means_margins_and_gaps():
    weights = torch.tensor([2.0, 0.0])
    table = ErrorTable(2, 2, weights=weights)
    table.add(torch.tensor([[1.0, 9.0], [2.0, 0.0]]))
    assert table.means().tolist() == [1.0, 2.0]
    assert table.ranked((0, 1)) == (0, 1)
    assert table.margin(0, [1]).mean == 1.0
    assert table.gaps(0, [1]).tolist() == [[2.0, 0.0]]
    assert table.errors[0].tolist() == [1.0, 9.0]


def test_an_uncalibrated_weight_is_one():
    assert Learned(3.0).weight([1, 2]).tolist() == [1.0, 1.0]


def test_what_cannot_be_learned_from_is_refused():
    made = images(6)
    with pytest.raises(UserError, match="have no known class"):
        learn([Recorded(made[0].errors, STEPS, (0, 1, 2))])
    other = Recorded(made[0].errors, tuple(t + 1 for t in STEPS), (0, 1, 2), 0)
    with pytest.raises(UserError, match="the same grid for all images"):
        learn([*made, other], weigh_timesteps=True)
