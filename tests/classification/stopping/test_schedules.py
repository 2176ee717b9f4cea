"""The staged schedule: grids, stage by stage counts of the published presets, and what is refused."""

import pytest
import torch

from perception.classification.error_table import ErrorTable
from perception.classification.sets import PRESETS, preset
from perception.classification.stopping.schedules import (
    Exhaustive,
    FixedSchedule,
    evaluations,
    staged_timesteps,
    uniform_grid,
)
from perception.errors import UserError

# Candidates and denoiser evaluations per image of the released code (not the paper's nominal counts).
PUBLISHED = {
    "food": (101, 5570),
    "cifar10": (10, 2750),
    "cifar100": (100, 5550),
    "aircraft": (100, 5550),
    "pets": (37, 2050),
    "flowers": (102, 5590),
    "stl10": (10, 3000),
    "imagenet": (1000, 124500),
    "objectnet": (113, 14400),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_cost_what_the_release_costs(name):
    candidates, expected = PUBLISHED[name]
    rule = FixedSchedule(preset(name).samples, preset(name).keep)
    assert evaluations(rule, [1] * candidates, 1000) == expected


def test_grids_that_do_not_nest_draw_more_than_their_nominal_count():
    stages = staged_timesteps((20, 50, 100, 500), 1000)
    assert [len(stage) for stage in stages] == [20, 50, 80, 350]
    assert len(set().union(*stages)) == 500


def test_nested_stages_draw_their_nominal_count():
    rule = FixedSchedule((20, 50, 100, 500), (20, 10, 5, 1), nested=True)
    assert [len(block) for block in rule.blocks(1000)] == [20, 30, 50, 400]
    assert evaluations(rule, [1] * 101, 1000) == 5120  # the paper's count for Food-101; the released code takes 5570


def test_a_count_that_does_not_divide_the_grid_uses_the_low_timesteps_only():
    low, rest = staged_timesteps((7, 20), 1000)
    grid = uniform_grid(20, 1000)
    assert low == grid[1:14:2]
    assert sorted(low + rest) == list(grid)


@pytest.mark.parametrize(("samples", "first", "last"), [(1, 500, 500), (10, 50, 950), (300, 1, 898), (1000, 0, 999)])
def test_uniform_grid(samples, first, last):
    grid = uniform_grid(samples, 1000)
    assert (grid[0], grid[-1], len(grid)) == (first, last, samples)


def test_trials_number_noise_by_order_of_first_evaluation():
    first, second = FixedSchedule((2, 4), (2, 1), trials=2).blocks(1000)
    assert [(s.timestep, s.trial, s.index) for s in first] == [(375, 0, 0), (375, 1, 1), (875, 0, 2), (875, 1, 3)]
    assert [s.index for s in second] == [4, 5, 6, 7]


def test_exhaustive_covers_the_interval_grid_of_matching_runs():
    (block,) = Exhaustive(samples=10).blocks(1000)
    assert [s.timestep for s in block] == list(range(50, 1000, 100))
    assert [s.index for s in block] == list(range(10))


def _table(rows):
    table = ErrorTable(len(rows), len(rows[0]))
    table.add(torch.tensor(rows))
    return table


def test_fixed_keeps_the_best_in_order_and_stops_after_the_last_stage():
    rule = FixedSchedule((1, 2), (2, 1))
    table = _table([[3.0], [1.0], [2.0]])
    assert rule.decide(0, table).alive == (1, 2)
    assert rule.decide(0, table).stop is None
    assert rule.decide(1, table).alive == (1,)
    assert rule.decide(1, table).stop == "schedule completed"


def test_keep_larger_than_the_number_of_candidates_drops_nobody():
    rule = FixedSchedule((25, 250), (5, 1))
    assert rule.decide(0, _table([[2.0], [1.0]])).alive == (1, 0)
    assert evaluations(rule, [1] * 2, 1000) == 2 * 250


def test_margin_is_paired_over_common_samples():
    table = ErrorTable(3, 4)
    table.add(torch.tensor([[1.0, 2.0], [1.5, 2.1], [9.0, 0.1]]))
    table.alive = (0, 1)
    table.add(torch.tensor([[3.0, 4.0], [3.3, 4.5]]))
    margin = table.margin(0, [1, 2])
    gaps = torch.tensor([0.5, 0.1, 0.3, 0.5], dtype=torch.float64)
    assert (margin.rival, margin.samples) == (1, 4)
    assert margin.mean == pytest.approx(gaps.mean().item(), rel=1e-6)
    assert margin.standard_error == pytest.approx(gaps.std().item() / 2, rel=1e-6)
    assert table.margin(0, []) is None
    assert table.difference(2, 0).tolist() == pytest.approx([8.0, -1.9])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FixedSchedule((), ()), "one number per stage"),
        (lambda: FixedSchedule((5, 10), (1,)), "samples 5,10 and keep 1 must name the same stages"),
        (lambda: FixedSchedule((5, 10), (3, 2)), "must end with 1"),
        (lambda: FixedSchedule((5, 10, 20), (3, 4, 1)), "must not grow"),
        (lambda: FixedSchedule((5, 0), (3, 1)), "must all be 1 or more"),
        (lambda: Exhaustive(0), "1 or more"),
        (lambda: FixedSchedule((5, 1001), (3, 1)).blocks(1000), "1001 timesteps per candidate do not fit"),
        (lambda: preset("cats"), "unknown preset 'cats'; choose one of food,"),
    ],
)
def test_impossible_schedules_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
