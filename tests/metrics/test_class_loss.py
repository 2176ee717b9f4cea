"""Mean losses per class against torch's cross-entropy."""

import json

import pytest
import torch
from torch.nn import functional as F

from perception.errors import UserError
from perception.metrics import ClassLoss

NAMES = ("road", "sky", "car")


def sample(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, 8, generator=generator)
    labels = torch.randint(0, 2, (6, 8), generator=generator)  # no car
    labels[:2] = 255
    loss = F.cross_entropy(logits[None], labels[None], ignore_index=255, reduction="none")[0]
    return logits, labels, loss


def test_means_are_those_of_torch():
    logits, labels, loss = sample(0)
    state = ClassLoss.of(loss, labels, 3)
    for label in (0, 1):
        wanted = F.cross_entropy(logits[:, labels == label].T, labels[labels == label])
        assert float(state.means[label]) == pytest.approx(float(wanted), rel=1e-6)
    assert state.means[2].isnan() and state.pixels.sum() == 32
    whole = F.cross_entropy(logits[None], labels[None], ignore_index=255)
    assert state.mean == pytest.approx(float(whole), rel=1e-6)


def test_states_add_and_survive_json():
    parts = [ClassLoss.of(sample(seed)[2], sample(seed)[1], 3) for seed in range(2)]
    both = torch.cat([sample(seed)[2] for seed in range(2)]), torch.cat([sample(seed)[1] for seed in range(2)])
    total = ClassLoss.empty(3) + parts[0] + parts[1]
    assert torch.allclose(total.sums, ClassLoss.of(*both, 3).sums) and total.pixels.sum() == 64
    again = ClassLoss.from_json(json.loads(json.dumps(total.to_json(NAMES))), NAMES)
    assert torch.equal(again.sums, total.sums) and torch.equal(again.pixels, total.pixels)
    assert set(total.to_json(NAMES)) == {"road", "sky"}
    with pytest.raises(ValueError, match="no class 'cat'"):
        ClassLoss.from_json({"cat": {"sum": 1, "pixels": 1}}, NAMES)


def test_wrong_shapes_and_ids():
    with pytest.raises(UserError, match="do not fit a label map"):
        ClassLoss.of(torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.int64), 3)
    with pytest.raises(UserError, match=r"class id 7, but there are 3 classes: use 0\.\.2"):
        ClassLoss.of(torch.zeros(2), torch.tensor([0, 7]), 3)
