"""Depth figures against scikit-learn and by hand, what counts as a pixel, and the behaviour as a sum."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error, root_mean_squared_log_error

from perception.errors import UserError
from perception.metrics import DepthMetrics
from perception.metrics.depth import valid_pixels


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(2)
    target = 0.5 + 9 * torch.rand(3, 20, 24, generator=generator)
    prediction = target * (0.6 + torch.rand(target.shape, generator=generator))
    target[torch.rand(target.shape, generator=generator) < 0.2] = 0
    return prediction, target


def test_equals_scikit_learn(maps):
    prediction, target = (x[0] for x in maps)
    values = DepthMetrics.of(prediction, target).values
    truth, guess = target[target > 0].double(), prediction[target > 0].double()
    assert values["rmse"] == pytest.approx(root_mean_squared_error(truth, guess))
    assert values["abs_rel"] == pytest.approx(mean_absolute_percentage_error(truth, guess))
    assert values["rmse_log"] == pytest.approx(root_mean_squared_log_error(truth - 1, guess - 1))  # of log(1 + x)
    assert values["d1"] == ((guess / truth < 1.25) & (truth / guess < 1.25)).double().mean()


def test_by_hand():
    values = DepthMetrics.of(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 4.0]])).values
    assert values["sq_rel"] == pytest.approx((1 + 4 / 4) / 2)
    assert values["log10"] == pytest.approx(math.log10(2))
    assert values["silog"] == pytest.approx(math.log(2))  # e = +ln 2, -ln 2: mean 0
    assert (values["d1"], values["d3"]) == (0.0, 0.0)  # 1.25^3 = 1.95 < 2


def test_images_are_averaged_not_pooled_and_states_add_up(maps):
    prediction, target = maps
    target[0, :, 6:] = 0  # the first image has few pixels, and weighs as much as the others
    whole = DepthMetrics.of(prediction[:, None], target[:, None])
    parts = [DepthMetrics.of(p, t) for p, t in zip(prediction, target, strict=True)]
    assert whole.values["rmse"] == pytest.approx(sum(part.values["rmse"] for part in parts) / 3)
    assert sum(parts, DepthMetrics.empty()).report() == whole.report()
    assert whole.report()["pixels"] == int((target > 0).sum())


def test_valid_pixels():
    target = torch.tensor([[0.0, 0.001, 0.002, 9.99, 10.0]])
    assert valid_pixels(target).tolist() == [[False, False, True, True, False]]
    assert valid_pixels(target, crop=(0, 1, 3, 9)).tolist() == [[False, False, False, True, False]]


def test_not_finite_predictions_and_empty_images():
    target = torch.full((1, 4), 2.0, dtype=torch.float64)
    odd = DepthMetrics.of(target.new_tensor([[math.inf, -math.inf, math.nan, 2.0]]), target)
    mended = DepthMetrics.of(target.new_tensor([[10.0, 10.0, 1e-3, 2.0]]), target)
    assert odd.report() == mended.report()
    nothing = DepthMetrics.of(target, torch.zeros(1, 4))
    assert nothing.images == 0
    assert nothing.report()["rmse"] is None


def test_another_size_is_refused():
    with pytest.raises(UserError, match=r"depth has shape \(2, 2\) but the target \(4, 4\); resize the target"):
        DepthMetrics.of(torch.ones(2, 2), torch.ones(4, 4))


@pytest.mark.parametrize("seed", range(6))
def test_any_split_of_the_images_gives_the_same_report(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 20)), *rng.integers(1, 30, 2))
    prediction, target = (torch.from_numpy(rng.uniform(0.1, 12, shape)) for _ in range(2))
    target[torch.from_numpy(rng.random(shape) < 0.3)] = 0
    target[0] = 0  # an image without a measurement
    whole = DepthMetrics.of(prediction, target)
    order = torch.from_numpy(rng.permutation(shape[0]))
    sizes = rng.multinomial(shape[0], [0.25] * 4).tolist()  # some parts are empty
    pairs = zip(prediction[order].split(sizes), target[order].split(sizes), strict=True)
    parts = [DepthMetrics.of(p, t) for p, t in pairs]
    assert sum(rng.permutation(parts), DepthMetrics.empty()).report() == pytest.approx(whole.report(), abs=2e-6)
    values = whole.values
    assert whole.images < shape[0] and 0 <= values["d1"] <= values["d2"] <= values["d3"] <= 1
    assert values["silog"] <= values["rmse_log"] and values["abs_rel"] >= 0


def test_a_perfect_prediction_is_perfect(maps):
    _, target = maps
    values = DepthMetrics.of(target, target).values
    assert [values.pop(name) for name in ("d1", "d2", "d3")] == [1, 1, 1]
    assert set(values.values()) == {0.0}


def test_what_a_factor_on_both_maps_changes(maps):
    prediction, target = (0.4 * x for x in maps)  # nothing leaves the range that counts
    before, after = (DepthMetrics.of(factor * prediction, factor * target).values for factor in (1.0, 0.5))
    for name in ("rmse", "sq_rel"):  # metres
        assert after[name] == pytest.approx(before[name] / 2, rel=1e-5)
    for name in ("d1", "d2", "d3", "abs_rel", "rmse_log", "log10", "silog"):  # ratios
        assert after[name] == pytest.approx(before[name], rel=1e-5)


def test_pixels_without_a_measurement_count_nowhere(maps):
    prediction, target = maps
    other = torch.where(target > 0, prediction, 1e4)
    assert DepthMetrics.of(other, target).report() == DepthMetrics.of(prediction, target).report()
