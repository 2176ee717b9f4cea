"""Referring metrics against scikit-learn, their edges, and their behaviour as a sum."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from perception.errors import UserError
from perception.metrics import ReferringMetrics


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(6, 12, 16, generator=generator) < 0.4
    noise = torch.rand(6, 12, 16, generator=generator) < torch.linspace(0, 0.5, 6).view(-1, 1, 1)
    return target ^ noise, target


def test_equals_scikit_learn(masks):
    prediction, target = masks
    metrics = ReferringMetrics.of(prediction, target)
    ious = [jaccard_score(t.flatten(), p.flatten()) for p, t in zip(prediction, target, strict=True)]
    assert metrics.mean_iou == pytest.approx(sum(ious) / 6)
    assert metrics.overall_iou == pytest.approx(jaccard_score(target.flatten(), prediction.flatten()))
    for threshold, share in metrics.precision.items():
        assert share == sum(iou >= threshold for iou in ious) / 6


def test_states_add_up(masks):
    whole = ReferringMetrics.of(*masks)
    parts = sum((ReferringMetrics.of(p, t) for p, t in zip(*masks, strict=True)), ReferringMetrics())
    assert parts.report() == whole.report()
    assert whole.report()["sentences"] == 6


def test_a_threshold_is_reached_by_equality():
    target = torch.tensor([[1, 1], [0, 0]])
    metrics = ReferringMetrics.of(torch.tensor([[1, 0], [0, 0]]), target)
    assert metrics.precision == {0.5: 1.0, 0.6: 0.0, 0.7: 0.0, 0.8: 0.0, 0.9: 0.0}


def test_empty_unions_and_no_sentence():
    nothing = torch.zeros(2, 3, 3)
    metrics = ReferringMetrics.of(nothing, nothing)
    assert (metrics.mean_iou, metrics.overall_iou) == (0.0, 0.0)
    one = torch.zeros(1, 3, 3)
    one[0, 1, 1] = 1  # a union of one pixel is no empty one
    assert ReferringMetrics.of(one, one).overall_iou == 1.0
    assert math.isnan(ReferringMetrics().mean_iou)
    assert ReferringMetrics().report()["oIoU"] is None


def test_bad_masks():
    with pytest.raises(UserError, match=r"shape \(1, 2\) but the target mask \(2, 1\); resize one"):
        ReferringMetrics.of(torch.zeros(1, 2), torch.zeros(2, 1))
    with pytest.raises(UserError, match="the target holds values other than 0 and 1"):
        ReferringMetrics.of(torch.zeros(1, 2), torch.tensor([[0, 255]]))
    with pytest.raises(UserError, match=r"expected masks \[sentences, height, width\]"):
        ReferringMetrics.of(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))


@pytest.mark.parametrize("seed", range(6))
def test_any_split_of_the_sentences_gives_the_same_report(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 20)), *rng.integers(1, 30, 2))
    prediction, target = (torch.from_numpy(rng.random(shape) < rng.random()) for _ in range(2))
    whole = ReferringMetrics.of(prediction, target)
    order = torch.from_numpy(rng.permutation(shape[0]))
    sizes = rng.multinomial(shape[0], [0.25] * 4).tolist()  # some parts are empty
    parts = [
        ReferringMetrics.of(p, t)
        for p, t in zip(prediction[order].split(sizes), target[order].split(sizes), strict=True)
    ]
    assert sum(rng.permutation(parts), ReferringMetrics()).report() == whole.report()
    assert 0 <= whole.mean_iou <= 1 and 0 <= whole.overall_iou <= 1
    assert sorted(whole.precision.values(), reverse=True) == list(whole.precision.values())
    assert ReferringMetrics.of(target, prediction).report() == whole.report()  # IoU is symmetric


def test_a_perfect_prediction_is_perfect(masks):
    _, target = masks
    report = ReferringMetrics.of(target, target).report()
    assert report.pop("sentences") == 6
    assert set(report.values()) == {100.0}
    assert set(ReferringMetrics.of(~target, target).precision.values()) == {0.0}
