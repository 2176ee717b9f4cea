"""The racing rule on error tables drawn from known distributions, and the order they walk the grid in."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from perception.classification.error_table import ErrorTable
from perception.classification.stopping.racing import FEWEST, Racing, t_quantile, t_statistics
from perception.classification.stopping.schedules import Exhaustive, evaluations, spread
from perception.errors import UserError


def errors_of(candidates, gap, samples=250, seed=0, winner=0):
    """Errors [C, N]: common noise, own noise of sd 1, and a mean that is `gap` larger for all but the winner."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(candidates, samples, generator=generator) + 5 * torch.randn(samples, generator=generator)
    errors[torch.arange(candidates) != winner] += gap
    return errors


def race(rule, errors, classes=None, costs=None):
    """Run a rule on errors [C, N] given in the order of its samples."""
    table = ErrorTable(*errors.shape, classes=classes, costs=costs)
    start = 0
    for number, block in enumerate(rule.blocks(1000)):
        table.add(errors[list(table.alive), start : start + len(block)])
        start += len(block)
        decision = rule.decide(number, table)
        table.alive = decision.alive
        if decision.stop:
            break
    return table, decision.stop


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 100, 250, 1000])
def test_spread_visits_everything_once_and_evenly(count):
    order = spread(count)
    assert sorted(order) == list(range(count))
    assert order[0] == count // 2
    for n in range(4, count + 1):
        gaps = torch.tensor(sorted(order[:n])).diff(prepend=torch.tensor([-1]), append=torch.tensor([count]))
        assert gaps.max() <= 4 * count / n + 1


@pytest.mark.parametrize(("samples", "steps", "trials"), [(250, 1000, 1), (7, 1000, 1), (33, 50, 2), (1, 1000, 1)])
def test_blocks_are_the_uniform_grid(samples, steps, trials):
    rule = Racing(samples, trials)
    blocks = rule.blocks(steps)
    drawn = [s for block in blocks for s in block]
    (whole,) = Exhaustive(samples, trials).blocks(steps)
    assert sorted((s.timestep, s.trial) for s in drawn) == sorted((s.timestep, s.trial) for s in whole)
    assert [s.index for s in drawn] == list(range(samples * trials))
    assert len(rule.most_rows([1] * 10)) == len(blocks)
    assert all(blocks)


@pytest.mark.parametrize(("samples", "trials"), [(250, 1), (125, 2)])
def test_looks_grow_rarer(samples, trials):
    ends = Racing(samples, trials, first=8).ends()
    assert (ends[0], ends[-1]) == (8, 250)
    for end, after in pairwise(ends[:-1]):
        assert after - end == max(2, end // 5)
    assert Racing(samples, trials, first=8, growth=0.0).ends() == list(range(8, 251, 2))


@pytest.mark.parametrize("candidates", [2, 3, 10, 1000])
def test_a_clear_winner_is_found_early(candidates):
    errors = errors_of(candidates, gap=8.0, winner=candidates // 2)
    table, stop = race(Racing(), errors)
    assert table.alive[0] == candidates // 2
    assert table.evaluations <= evaluations(Racing(), [1] * candidates, 1000)
    assert (len(table.alive), stop) == (1, "one class left")
    assert table.evaluations <= 0.1 * errors.numel()


def test_a_paired_t_test_drops_at_its_textbook_limit():
    errors = errors_of(2, gap=0.8, samples=4000)
    table, _ = race(Racing(1000, doubt=0.0, block=1, growth=0.0), errors)
    n = table.counts[0]
    statistic = stats.ttest_rel(errors[1, :n].double(), errors[0, :n].double()).statistic
    before = stats.ttest_rel(errors[1, : n - 1].double(), errors[0, : n - 1].double()).statistic
    assert statistic > stats.t.ppf(0.99, n - 1) * math.sqrt(1 - n / 1000)
    assert n == Racing.first or before <= stats.t.ppf(0.99, n - 2) * math.sqrt(1 - (n - 1) / 1000)


def test_few_races_of_equals_end_against_what_the_grid_is_sure_of():
    """At most 1 - confidence of them."""
    wrong = sure = 0
    for seed in range(300):
        errors = errors_of(2, gap=0.0, samples=100, seed=seed)
        grid_t = t_statistics(errors[1:].double() - errors[:1].double()).item()
        table, _ = race(Racing(100), errors)
        if abs(grid_t) > 1.96:
            sure += 1
            wrong += table.alive[0] != int(grid_t < 0)
    assert sure >= Racing.first
    assert wrong <= 3


def test_doubt_ends_hopeless_duels_and_zero_doubt_follows_the_grid():
    short, long, agree = 0, 0, 0
    for seed in range(40):
        errors = errors_of(2, gap=0.02, seed=seed)
        best = int(errors.double().mean(1).argmin())
        exact, _ = race(Racing(doubt=0.0, confidence=0.999), errors)
        agree += exact.alive[0] == best
        long += exact.evaluations
        short += race(Racing(), errors)[0].evaluations
    assert agree >= 39
    assert short < 0.6 * long


def test_prompts_of_one_class_need_not_beat_each_other():
    errors = errors_of(4, gap=6.0)
    errors[1] = errors[0] + 0.01 * torch.randn(250, generator=torch.Generator().manual_seed(1))  # a second template
    table, stop = race(Racing(), errors, classes=(0, 0, 1, 1))
    assert stop == "one class left"
    assert set(table.alive) <= {0, 1}
    assert max(table.counts) <= 16


def test_a_repeated_prompt_leaves_and_the_first_stands_for_both():
    errors = errors_of(3, gap=0.0, samples=50)
    errors[2] = errors[0]
    errors[1] += 9.0
    table, stop = race(Racing(50), errors)
    assert (table.alive, stop) == ((0,), "one class left")


def test_gaps_without_spread_are_decided_by_their_sign():
    errors = errors_of(1, gap=0.0, samples=50).repeat(2, 1)
    errors[0] += 0.5
    errors = (errors * 64).round() / 64  # the difference is 0.5 in every sample
    table, _ = race(Racing(50), errors)
    assert table.alive == (1,)
    assert table.counts == [FEWEST, FEWEST]


def test_at_the_end_of_the_grid_the_mean_decides_among_those_left():
    errors = errors_of(3, gap=0.0, samples=40, seed=5)
    table, stop = race(Racing(40, confidence=0.9999, doubt=0.0), errors)
    assert stop == "grid completed"
    assert len(table.alive) > 1
    assert table.alive[0] == int(errors.double().mean(1).argmin())


def test_grids_shorter_than_a_first_block_run_to_their_end():
    table, stop = race(Racing(3), errors_of(3, gap=50.0, samples=3))
    assert (stop, table.counts, table.alive[0]) == ("grid completed", [3, 3, 3], 0)


@pytest.mark.parametrize("cost", [1, 3])
def test_a_budget_is_never_exceeded(cost):
    errors = errors_of(6, gap=0.0)
    for budget in (48 * cost, 100 * cost, 333 * cost):
        limited = Racing(budget=budget)
        table, stop = race(limited, errors, costs=(cost,) * 6)
        assert table.evaluations <= budget
        assert evaluations(limited, [cost] * 6, 1000) <= budget
        assert stop in ("budget spent", "one class left")


def test_t_quantile_is_students():
    assert t_quantile(0.99, 10) == pytest.approx(stats.t.ppf(0.99, 9))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Racing(0), "samples 0, trials 1 and block 2 must be 1 or more"),
        (lambda: Racing(first=3), "a first block of 3 samples is too short to judge; give 4 or more"),
        (lambda: Racing(growth=-0.1), "blocks that grow by -0.1 of the samples seen make no race; give 0 or more"),
        (lambda: Racing(confidence=1.0), "a confidence of 1.0 is not between 0.5 and 1"),
        (lambda: Racing(doubt=-1.0), "a doubt of -1.0 standard errors is negative"),
        (lambda: Racing(confidence=0.4), "not between 0.5 and 1"),
        (lambda: Racing(budget=39).most_rows([1] * 10), "a budget of 39 .* give 40 or more"),
        (lambda: Racing(1001).blocks(1000), "1001 timesteps per candidate do not fit"),
    ],
)
def test_impossible_races_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize("doubt", [0.0, 1.645])
@pytest.mark.parametrize("n", [4, 20, 99])
def test_a_rival_leaves_at_the_limit_of_the_formula(n, doubt):
    """t_n > q sqrt(1 - n/M) - doubt sqrt(n/M), by scipy."""
    gaps = torch.randn(400, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = stats.ttest_1samp(gaps.numpy(), 0, axis=1).statistic
    limit = stats.t.ppf(0.99, n - 1) * math.sqrt(1 - n / 100) - doubt * math.sqrt(n / 100)
    expected = t > max(limit, 0)
    assert 0 < expected.sum() < 400
    assert Racing(100, doubt=doubt).behind(gaps).tolist() == expected.tolist()
    unit = torch.from_numpy(stats.zscore(gaps[0].numpy(), ddof=1))
    close = torch.stack([unit + (max(limit, 0) + step) / math.sqrt(n) for step in (-1e-6, 1e-6)])
    assert Racing(100, doubt=doubt).behind(close).tolist() == [False, True]


def test_a_rival_level_with_the_leader_stays():
    """On 90 of 100 samples the limit is 0, and so is t."""
    gaps = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(45)[None]
    assert Racing(100).behind(gaps).tolist() == [False]


def test_a_budget_cuts_the_most_rows():
    rule = Racing(10, budget=100)
    assert rule.ends() == [4, 6, 8, 10]
    assert Racing(10).most_rows([2, 5, 8]) == (15, 15, 15, 15)
    assert rule.most_rows([2, 5, 8]) == (15, 15, 5, 0)  # 60, 30, and 10 of 30 evaluations


def test_a_budget_may_be_spent_to_its_last_evaluation():
    errors = errors_of(6, gap=0.0, samples=10, seed=5)
    assert Racing(10, budget=24).most_rows([1] * 6) == (6, 0, 0, 0)
    whole, _ = race(Racing(10), errors)
    assert [len(alive) for alive in whole.history[:2]] == [6, 6]
    for budget, spent in ((35, 24), (36, 36)):  # 6 candidates on 4 samples, and on 2 more
        table, stop = race(Racing(10, budget=budget), errors)
        assert (table.evaluations, stop) == (spent, "budget spent")
