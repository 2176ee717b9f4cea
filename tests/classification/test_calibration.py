"""Temperature (against scikit-learn's logistic regression) and timestep weights, learned from recorded errors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from perception.classification.calibration import (
    ErrorCalibration,
    calibrate,
    class_leads,
    class_probabilities,
    fit_temperature,
    fit_weights,
    paired_sums,
)
from perception.classification.error_table import ErrorTable
from perception.classification.replay import Recorded
from perception.errors import UserError
from perception.metrics.calibration import ReliabilityBins

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
    learned = calibrate(made)
    probabilities = torch.stack([learned.probabilities(table_of(image)) for image in made])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(300, dtype=torch.float64))
    confidence, guess = probabilities.max(1)
    hits = guess == torch.tensor([image.truth for image in made])
    assert confidence.mean().item() == pytest.approx(hits.double().mean().item(), abs=0.05)


def test_weights_find_the_timesteps_that_matter():
    made = images(300)
    learned = calibrate(made, weigh_timesteps=True)
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
    probabilities = ErrorCalibration(5.0).probabilities(table)
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
    assert ErrorCalibration(3.0).weight([1, 2]).tolist() == [1.0, 1.0]


def test_what_cannot_be_learned_from_is_refused():
    made = images(6)
    with pytest.raises(UserError, match="have no known class"):
        calibrate([Recorded(made[0].errors, STEPS, (0, 1, 2))])
    other = Recorded(made[0].errors, tuple(t + 1 for t in STEPS), (0, 1, 2), 0)
    with pytest.raises(UserError, match="the same grid for all images"):
        calibrate([*made, other], weigh_timesteps=True)


@pytest.fixture
def drawn():
    """Errors whose labels were drawn from softmax(-300 * errors): 4000 images, 6 classes."""
    generator = torch.Generator().manual_seed(0)
    errors = 0.5 + 0.01 * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(class_probabilities(errors, 300.0), 1, generator=generator)[:, 0]
    return errors, labels


def bins(errors, beta, labels):
    confidence, guess = class_probabilities(errors, beta).max(1)
    return ReliabilityBins.of(confidence, guess == labels)


def test_the_temperature_is_found_again_and_calibrates(drawn):
    errors, labels = drawn
    beta = fit_temperature(errors, labels)
    assert beta == pytest.approx(300, rel=0.06)
    assert fit_temperature(1000 * errors, labels) == pytest.approx(beta / 1000, rel=1e-3)
    assert bins(errors, beta, labels).ece < 0.03
    assert bins(errors, 1.0, labels).ece > 0.2
    assert bins(errors, 20 * beta, labels).ece > 0.2


@pytest.mark.parametrize("images", [5, 20, 1000])
def test_a_set_without_a_mistake_has_a_finite_temperature(images):
    errors = 0.5 + 0.01 * torch.randn(images, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = errors.argmin(1)
    beta = fit_temperature(errors, labels)
    confidence = class_probabilities(errors, beta).max(1).values.mean().item()
    assert 0.7 < confidence < (images + 1) / (images + 2)
    never = torch.cat([errors, torch.full((images, 1), float("nan"))], dim=1)
    assert fit_temperature(never, labels) == pytest.approx(beta, rel=1e-3)


def test_the_temperature_of_two_classes_is_logistic_regression(drawn):
    errors, labels = drawn[0][:, :2], (drawn[1] > 2).long()
    errors = errors + 0.005 * torch.nn.functional.one_hot(1 - labels, 2)
    gap = (errors[:, :1] - errors[:, 1:]).numpy()
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(gap * 100, labels)
    assert fit_temperature(errors, labels) == pytest.approx(100 * model.coef_.item(), rel=1e-3)


def test_weights_find_the_samples_that_tell():
    """Column 0 says the class, column 1 is noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (500,), generator=generator)
    errors = torch.randn(500, 4, 2, generator=generator)
    errors[:, :, 0] -= 2 * torch.nn.functional.one_hot(labels, 4)
    weights = fit_weights(errors, labels)
    assert weights[0] > 5 * weights[1] >= 0
    stiff = fit_weights(errors, labels, penalty=1e6)
    assert torch.allclose(stiff, torch.full((2,), fit_temperature(errors.sum(2), labels)).double(), rtol=1e-3)


def test_sums_after_a_race_are_paired():
    table = torch.tensor([[1.0, 5.0, 1.0, 5.0], [1.5, 5.5, 1.5, 5.5], [2.0, 6.0, float("nan"), float("nan")]])
    assert paired_sums(table).tolist() == pytest.approx([0.0, 2.0, 4.0])
    never = torch.cat([table, torch.full((1, 4), float("nan"))])
    sums = paired_sums(never)
    assert sums[3].isnan()
    assert class_probabilities(sums[None], 1.0)[0, 3] == 0


def test_bad_input_gets_one_sentence():
    with pytest.raises(UserError, match=r"expected \[images, classes\] and \[images\]"):
        fit_temperature(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(UserError, match="the labels hold 0 to 7, but there are 2 classes"):
        fit_temperature(torch.zeros(2, 2), torch.tensor([0, 7]))
    with pytest.raises(UserError, match="never evaluated"):
        fit_temperature(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]))
    with pytest.raises(UserError, match=r"expected finite numbers \[images, classes, samples\]"):
        fit_weights(torch.zeros(2, 2), torch.zeros(2))
