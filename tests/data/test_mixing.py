"""The plan of mixed sources: exact shares, every sample before any comes back, a function of (seed, epoch)."""

import numpy as np
import pytest

from perception.data.mixing import MixingPlan
from perception.errors import UserError


def test_proportional_epochs_show_every_sample_once():
    plan = MixingPlan((6, 4), seed=3)
    assert plan.counts == (6, 4)
    for epoch in range(3):
        draws = plan.epoch(epoch)
        assert sorted(map(tuple, draws.tolist())) == [(0, i) for i in range(6)] + [(1, i) for i in range(4)]


def test_shares_are_exact_and_small_sources_repeat_evenly():
    plan = MixingPlan((1000, 7), (0.5, 0.5), length=200)
    draws = np.concatenate([plan.epoch(epoch) for epoch in range(14)])
    assert np.bincount(draws[:, 0]).tolist() == [1400, 1400]
    assert np.bincount(draws[draws[:, 0] == 1, 1]).tolist() == [200] * 7
    large = draws[draws[:, 0] == 0, 1]
    assert len(set(large[:1000].tolist())) == 1000  # all before any comes back
    assert len(set(large[1000:].tolist())) == 400


def test_sources_are_shuffled_within_an_epoch():
    order = MixingPlan((500, 500)).epoch(0)[:, 0]
    assert 180 < np.count_nonzero(np.diff(order)) < 999
    assert 60 < order[:250].sum() < 190


def test_draws_depend_on_seed_and_epoch_alone():
    first, again = (MixingPlan((30, 20), (0.4, 0.6), 25, seed=1) for _ in range(2))
    later = again.epoch(2)
    assert (first.epoch(2) == later).all()
    assert (first.epoch(1) != later).any()
    assert (MixingPlan((30, 20), (0.4, 0.6), 25, seed=2).epoch(2) != later).any()


@pytest.mark.parametrize(("shares", "counts"), [((1 / 3, 2 / 3), (3, 7)), ((0.25, 0.75), (3, 7)), ((0.7, 0.3), (7, 3))])
def test_rounding(shares, counts):
    plan = MixingPlan((5, 5), shares, length=10)
    assert sum(plan.counts) == 10
    assert plan.counts == counts or abs(plan.counts[0] - shares[0] * 10) == 0.5


def test_sources_may_pick_their_samples():
    plan = MixingPlan((5, 3), seed=1, pickers=[None, lambda rng, count: rng.integers(100, 103, count)])
    draws = plan.epoch(0)
    assert (draws[draws[:, 0] == 1, 1] >= 100).all()
    assert (plan.epoch(0) == draws).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((5, 0),), r"have \[5, 0\] samples; expected at least one in each"),
        (((),), "expected at least one in each"),
        (((5, 5), (0.5, 0.6)), r"are \[0.5, 0.6\]; expected one above 0 for each source, and 1 in total"),
        (((5, 5), (1.0, 0.0)), "expected one above 0"),
        (((5, 5), (1.0,)), "of 2 sources"),
        (((5, 5), (0.99, 0.01), 10), r"has \[10, 0\] of the sources; make the epoch longer"),
    ],
)
def test_wrong_mixes(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        MixingPlan(*arguments)
