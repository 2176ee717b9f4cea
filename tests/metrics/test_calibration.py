"""Temperature against scikit-learn's logistic regression, bins against its calibration curve, sums after a race."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from perception.errors import UserError
from perception.metrics.calibration import (
    Calibration,
    class_probabilities,
    fit_temperature,
    fit_weights,
    paired_sums,
)


@pytest.fixture
def drawn():
    """Errors whose labels were drawn from softmax(-300 * errors): 4000 images, 6 classes."""
    generator = torch.Generator().manual_seed(0)
    errors = 0.5 + 0.01 * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(class_probabilities(errors, 300.0), 1, generator=generator)[:, 0]
    return errors, labels


def calibration(errors, beta, labels):
    confidence, guess = class_probabilities(errors, beta).max(1)
    return Calibration.of(confidence, guess == labels)


def test_the_temperature_is_found_again_and_calibrates(drawn):
    errors, labels = drawn
    beta = fit_temperature(errors, labels)
    assert beta == pytest.approx(300, rel=0.06)
    assert fit_temperature(1000 * errors, labels) == pytest.approx(beta / 1000, rel=1e-3)
    assert calibration(errors, beta, labels).ece < 0.03
    assert calibration(errors, 1.0, labels).ece > 0.2
    assert calibration(errors, 20 * beta, labels).ece > 0.2


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


def test_bins_equal_scikit_learn(drawn):
    probabilities = class_probabilities(drawn[0], 250.0)
    labels = drawn[1]
    confidence, guess = probabilities.max(1)
    hits = guess == labels
    state = Calibration.of(confidence, hits, bins=10)
    truth, mean = calibration_curve(hits.numpy(), confidence.numpy(), n_bins=10)
    used = state.images > 0
    assert state.accuracy[used].numpy() == pytest.approx(truth)
    assert state.mean_confidence[used].numpy() == pytest.approx(mean)
    share = (state.images[used] / len(labels)).numpy()
    assert state.ece == pytest.approx((share * np.abs(truth - mean)).sum())
    parts = [Calibration.of(p, t, 10) for p, t in zip(confidence.split(700), hits.split(700), strict=True)]
    assert sum(parts, Calibration.empty(10)).ece == pytest.approx(state.ece)


def test_there_are_fifteen_bins_unless_told():
    state = Calibration.of(torch.tensor([0.01, 0.999]), torch.tensor([False, True]))
    assert [len(part) for part in (state.images, state.confidence, state.correct)] == [15, 15, 15]
    assert (state + Calibration.empty()).images.tolist() == [1, *[0] * 13, 1]


def test_the_reliability_diagram_is_a_png(drawn):
    content = calibration(drawn[0], 300.0, drawn[1]).picture("toy")
    assert min(Image.open(io.BytesIO(content)).size) > 300


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
