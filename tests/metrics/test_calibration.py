"""Bins of confidence against scikit-learn's calibration curve."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.calibration import calibration_curve

from perception.metrics.calibration import ReliabilityBins


@pytest.fixture
def answers():
    """Confidences of 4000 images with 6 classes, and which answers are right; labels were drawn from sharper ones."""
    generator = torch.Generator().manual_seed(0)
    errors = 0.5 + 0.01 * torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((-300 * errors).softmax(1), 1, generator=generator)[:, 0]
    confidence, guess = (-250 * errors).softmax(1).max(1)
    return confidence, guess == labels


def test_bins_equal_scikit_learn(answers):
    confidence, hits = answers
    state = ReliabilityBins.of(confidence, hits, bins=10)
    truth, mean = calibration_curve(hits.numpy(), confidence.numpy(), n_bins=10)
    used = state.images > 0
    assert state.accuracy[used].numpy() == pytest.approx(truth)
    assert state.mean_confidence[used].numpy() == pytest.approx(mean)
    share = (state.images[used] / len(hits)).numpy()
    assert state.ece == pytest.approx((share * np.abs(truth - mean)).sum())
    parts = [ReliabilityBins.of(p, t, 10) for p, t in zip(confidence.split(700), hits.split(700), strict=True)]
    assert sum(parts, ReliabilityBins.empty(10)).ece == pytest.approx(state.ece)


def test_there_are_fifteen_bins_unless_told():
    state = ReliabilityBins.of(torch.tensor([0.01, 0.999]), torch.tensor([False, True]))
    assert [len(part) for part in (state.images, state.confidence, state.correct)] == [15, 15, 15]
    assert (state + ReliabilityBins.empty()).images.tolist() == [1, *[0] * 13, 1]


def test_the_reliability_diagram_is_a_png(answers):
    content = ReliabilityBins.of(*answers).picture("toy")
    assert min(Image.open(io.BytesIO(content)).size) > 300
