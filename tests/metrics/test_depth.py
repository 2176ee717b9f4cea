"""Depth figures against scikit-learn and by hand, what counts as a pixel, and the behaviour as a sum."""

import math

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
