"""The SILog loss: pooled or per image, missing measurements, wrong sizes."""

import math

import pytest
import torch

from perception.depth import silog_loss
from perception.errors import UserError


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(4)
    target = 1 + 8 * torch.rand(2, 1, 6, 8, generator=generator)
    target[0, 0, :4] = 0
    return 1 + 8 * torch.rand(2, 1, 6, 8, generator=generator), target


def test_pooling(maps):
    prediction, target = maps
    d = (target / prediction).log()[target > 0].double()
    pooled = math.sqrt((d**2).mean() - 0.5 * d.mean() ** 2)
    assert silog_loss(prediction, target).item() == pytest.approx(pooled, rel=1e-5)
    single = [silog_loss(p[None], t[None]).item() for p, t in zip(prediction, target, strict=True)]
    assert silog_loss(prediction, target, reduction="image").item() == pytest.approx(sum(single) / 2)
    assert sum(single) / 2 != pytest.approx(pooled, rel=1e-4)


def test_variance_focus(maps):
    prediction, target = maps
    scaled = silog_loss(3 * prediction, target, variance_focus=1.0).item()
    assert scaled == pytest.approx(silog_loss(prediction, target, variance_focus=1.0).item(), rel=1e-4)


@pytest.mark.parametrize("reduction", ["batch", "image"])
def test_invariances(maps, reduction):
    prediction, target = maps
    loss = silog_loss(prediction, target, reduction=reduction).item()
    hidden = torch.where(target > 0, prediction, 77.0)
    assert silog_loss(hidden, target, reduction=reduction).item() == loss  # pixels without a measurement
    scaled = silog_loss(0.3 * prediction, 0.3 * target, reduction=reduction).item()
    assert scaled == pytest.approx(loss, rel=1e-4)  # the unit of both
    swapped = silog_loss(target.clamp(min=1.0), torch.where(target > 0, prediction, 0.0), reduction=reduction).item()
    assert swapped == pytest.approx(loss, rel=1e-4)  # d -> -d
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    mixed = [x.flatten(2)[..., order].view_as(x) for x in maps]
    assert silog_loss(*mixed, reduction=reduction).item() == pytest.approx(loss, rel=1e-4)  # the places
    assert silog_loss(target.clamp(min=1.0), target, reduction=reduction).item() <= 1e-6  # a perfect prediction


def test_gradients_stay_finite(maps):
    prediction, target = maps
    for start in (prediction, target.clamp(min=1.0), torch.zeros_like(target)):
        leaf = start.clone().requires_grad_()
        silog_loss(leaf, target).backward()
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[target == 0].any()


def test_without_measurements(maps):
    prediction, target = maps
    target[0] = 0
    assert silog_loss(prediction, target) == silog_loss(prediction[1:], target[1:])
    assert silog_loss(prediction, target, reduction="image") == silog_loss(prediction[1:], target[1:])
    leaf = prediction.clone().requires_grad_()
    loss = silog_loss(leaf, torch.zeros_like(target))
    loss.backward()
    assert loss == 0
    assert not leaf.grad.any()


def test_another_size_is_refused(maps):
    prediction, _ = maps
    with pytest.raises(UserError, match=r"\(2, 1, 6, 8\) but the target \(2, 1, 12, 16\); resize the target"):
        silog_loss(prediction, torch.ones(2, 1, 12, 16))
