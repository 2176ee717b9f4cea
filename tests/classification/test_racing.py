"""Racing rules on error tables drawn from known distributions, and the order they walk the grid in."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from perception.classification.racing import ConfidenceSequence, PairedT, SuccessiveHalving
from perception.classification.schedule import Exhaustive, evaluations, spread
from perception.classification.statistics import mixture_bound, normal_scores, t_quantile, t_statistics
from perception.classification.table import ErrorTable
from perception.errors import UserError

RULES = (PairedT, ConfidenceSequence, SuccessiveHalving)


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("samples", "steps", "trials"), [(250, 1000, 1), (7, 1000, 1), (33, 50, 2), (1, 1000, 1)])
def test_blocks_are_the_uniform_grid(rule, samples, steps, trials):
    race_rule = rule(samples, trials)
    blocks = race_rule.blocks(steps)
    drawn = [s for block in blocks for s in block]
    (whole,) = Exhaustive(samples, trials).blocks(steps)
    assert sorted((s.timestep, s.trial) for s in drawn) == sorted((s.timestep, s.trial) for s in whole)
    assert [s.index for s in drawn] == list(range(samples * trials))
    assert len(race_rule.most_rows([1] * 10)) == len(blocks)
    assert all(blocks)


@pytest.mark.parametrize("rule", [PairedT, ConfidenceSequence])
@pytest.mark.parametrize(("samples", "trials", "group"), [(250, 1, 1), (125, 2, 2)])
def test_looks_grow_rarer(rule, samples, trials, group):
    ends = rule(samples, trials, first=8, block=2, group=group).ends()
    assert (ends[0], ends[-1]) == (8, 250)
    for end, after in pairwise(ends[:-1]):
        assert after - end == max(2, end // 5 // group * group)
    assert rule(samples, trials, first=8, block=2, group=group, growth=0.0).ends() == list(range(8, 251, 2))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("candidates", [2, 3, 10, 1000])
def test_a_clear_winner_is_found_early(rule, candidates):
    errors = errors_of(candidates, gap=8.0, winner=candidates // 2)
    table, stop = race(rule(), errors)
    assert table.alive[0] == candidates // 2
    assert table.evaluations <= evaluations(rule(), [1] * candidates, 1000)
    if rule is not SuccessiveHalving:  # which needs a round per halving
        assert (len(table.alive), stop) == (1, "one class left")
        assert table.evaluations <= 0.1 * errors.numel()


def test_a_paired_t_test_drops_at_its_textbook_limit():
    errors = errors_of(2, gap=0.8, samples=4000)
    table, _ = race(PairedT(1000, doubt=0.0, block=1, growth=0.0), errors)
    n = table.counts[0]
    statistic = stats.ttest_rel(errors[1, :n].double(), errors[0, :n].double()).statistic
    before = stats.ttest_rel(errors[1, : n - 1].double(), errors[0, : n - 1].double()).statistic
    assert statistic > stats.t.ppf(0.99, n - 1) * math.sqrt(1 - n / 1000)
    assert n == PairedT.first or before <= stats.t.ppf(0.99, n - 2) * math.sqrt(1 - (n - 1) / 1000)


def test_few_races_of_equals_end_against_what_the_grid_is_sure_of():
    """At most 1 - confidence of them."""
    wrong = sure = 0
    for seed in range(300):
        errors = errors_of(2, gap=0.0, samples=100, seed=seed)
        grid_t = t_statistics(errors[1:].double() - errors[:1].double()).item()
        table, _ = race(PairedT(100), errors)
        if abs(grid_t) > 1.96:
            sure += 1
            wrong += table.alive[0] != int(grid_t < 0)
    assert sure >= PairedT.first
    assert wrong <= 3


def test_doubt_ends_hopeless_duels_and_zero_doubt_follows_the_grid():
    short, long, agree = 0, 0, 0
    for seed in range(40):
        errors = errors_of(2, gap=0.02, seed=seed)
        best = int(errors.double().mean(1).argmin())
        exact, _ = race(PairedT(doubt=0.0, confidence=0.999), errors)
        agree += exact.alive[0] == best
        long += exact.evaluations
        short += race(PairedT(), errors)[0].evaluations
    assert agree >= 39
    assert short < 0.6 * long


def test_the_mixture_bound_may_be_peeked_at():
    """The t statistic of a mean of zero stays below the bound at every n >= 8, in all but alpha of the runs."""
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(2000, 300, generator=generator, dtype=torch.float64).cumsum(1)
    n = torch.arange(1, 301)
    bound = torch.tensor([mixture_bound(0.05, int(k), 50) for k in n])
    assert ((sums / n.sqrt() > bound)[:, 7:].any(1)).double().mean() < 0.05
    peeked = (sums / n.sqrt() > stats.norm.ppf(0.95))[:, 7:].any(1).double().mean()
    assert peeked > 0.2  # what a plain test does when looked at so often


@pytest.mark.parametrize("confidence", [0.99, 0.999])
def test_a_confidence_sequence_errs_no_more_than_allowed_from_few_samples_on(confidence):
    """3000 pairs without a difference, looked at after every block; a t statistic would exceed the bound too often."""
    rule = ConfidenceSequence(70, confidence=confidence)
    gaps = torch.randn(3000, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = plain = torch.zeros(3000, dtype=torch.bool)
    for n in rule.ends():
        score = score | rule.behind(gaps[:, :n], 70)
        plain = plain | (t_statistics(gaps[:, :n]) > mixture_bound(1 - confidence, n, rule.tuned))
    assert score.double().mean() < 1 - confidence < plain.double().mean()


def test_normal_scores_are_quantiles_of_equal_probability():
    t = torch.tensor([-2.0, 0.0, 1.5, 30.0, float("inf")], dtype=torch.float64)
    expected = [stats.norm.isf(stats.t.sf(value, 7)) for value in t[:-1].tolist()]
    assert normal_scores(t, 8).tolist() == pytest.approx([*expected, float("inf")])


def test_halving_keeps_the_better_half_of_twice_the_samples():
    rule = SuccessiveHalving()
    assert rule.ends() == [8, 16, 32, 64, 128, 250]
    assert rule.most_rows([1] * 10) == (10, 5, 3, 2, 0, 0)
    table, stop = race(rule, errors_of(10, gap=0.0))
    assert [len(alive) for alive in table.history] == [10, 5, 3, 2]
    assert stop == "one class left"
    assert table.evaluations == evaluations(rule, [1] * 10, 1000) == 10 * 8 + 5 * 8 + 3 * 16 + 2 * 32


@pytest.mark.parametrize("rule", RULES)
def test_prompts_of_one_class_need_not_beat_each_other(rule):
    errors = errors_of(4, gap=6.0)
    errors[1] = errors[0] + 0.01 * torch.randn(250, generator=torch.Generator().manual_seed(1))  # a second template
    table, stop = race(rule(), errors, classes=(0, 0, 1, 1))
    assert stop == "one class left"
    assert set(table.alive) <= {0, 1}
    assert max(table.counts) <= 16


@pytest.mark.parametrize("rule", [PairedT, ConfidenceSequence])
def test_a_repeated_prompt_leaves_and_the_first_stands_for_both(rule):
    errors = errors_of(3, gap=0.0, samples=50)
    errors[2] = errors[0]
    errors[1] += 9.0
    table, stop = race(rule(50), errors)
    assert (table.alive, stop) == ((0,), "one class left")


@pytest.mark.parametrize("rule", [PairedT, ConfidenceSequence])
def test_gaps_without_spread_are_decided_by_their_sign(rule):
    errors = errors_of(1, gap=0.0, samples=50).repeat(2, 1)
    errors[0] += 0.5
    errors = (errors * 64).round() / 64  # the difference is 0.5 in every sample
    table, _ = race(rule(50), errors)
    assert table.alive == (1,)
    assert table.counts == [rule.first, rule.first]


def test_at_the_end_of_the_grid_the_mean_decides_among_those_left():
    errors = errors_of(3, gap=0.0, samples=40, seed=5)
    table, stop = race(ConfidenceSequence(40), errors)
    assert stop == "grid completed"
    assert len(table.alive) > 1
    assert table.alive[0] == int(errors.double().mean(1).argmin())


def test_grids_shorter_than_a_first_block_run_to_their_end():
    table, stop = race(ConfidenceSequence(5), errors_of(3, gap=50.0, samples=5))
    assert (stop, table.counts, table.alive[0]) == ("grid completed", [5, 5, 5], 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cost", [1, 3])
def test_a_budget_is_never_exceeded(rule, cost):
    errors = errors_of(6, gap=0.0)
    for budget in (48 * cost, 100 * cost, 333 * cost):
        limited = rule(budget=budget)
        table, stop = race(limited, errors, costs=(cost,) * 6)
        assert table.evaluations <= budget
        assert evaluations(limited, [cost] * 6, 1000) <= budget
        assert stop in ("budget spent", "one class left")


def test_t_quantile_is_students():
    assert t_quantile(0.99, 10) == pytest.approx(stats.t.ppf(0.99, 9))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PairedT(0), "samples 0, trials 1 and block 2 must be 1 or more"),
        (lambda: PairedT(first=3), "a first block of 3 samples is too short to judge; give 4 or more"),
        (lambda: ConfidenceSequence(first=7), "a first block of 7 samples is too short to judge; give 8 or more"),
        (lambda: PairedT(growth=-0.1), "blocks that grow by -0.1 of the samples seen make no race; give 0 or more"),
        (lambda: PairedT(confidence=1.0), "a confidence of 1.0 is not between 0.5 and 1"),
        (lambda: PairedT(doubt=-1.0), "a doubt of -1.0 standard errors is negative"),
        (lambda: ConfidenceSequence(confidence=0.4), "not between 0.5 and 1"),
        (lambda: SuccessiveHalving(eta=1), "eta 1 would keep everybody; give 2 or more"),
        (lambda: PairedT(budget=39).most_rows([1] * 10), "a budget of 39 .* give 40 or more"),
        (lambda: PairedT(1001).blocks(1000), "1001 timesteps per candidate do not fit"),
    ],
)
def test_impossible_races_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_antithetic_pairs_are_neighbours_and_count_as_one_sample():
    rule = PairedT(20, trials=2, first=16, block=6, group=2)
    drawn = [sample for block in rule.blocks(1000) for sample in block]
    for one, other in zip(drawn[::2], drawn[1::2], strict=True):
        assert (one.timestep, one.trial, other.timestep, other.trial) == (one.timestep, 0, one.timestep, 1)
    assert all(len(block) % 2 == 0 for block in rule.blocks(1000))
    pairs = errors_of(3, gap=0.5, samples=20)
    opposite = torch.randn(1, 20, generator=torch.Generator().manual_seed(1)).expand(3, -1).clone()
    opposite[0] *= 5  # cancels in the mean of a pair, and would hide the winner if samples counted one by one
    single = torch.stack([pairs + opposite, pairs - opposite], dim=2).flatten(1)
    table = ErrorTable(3, 40, group=2)
    table.add(single)
    torch.testing.assert_close(table.gaps(0, [1, 2]), (pairs[1:] - pairs[:1]).double(), rtol=0, atol=1e-5)
    margin = table.margin(0, [1, 2])
    assert margin.samples == 20
    assert margin.standard_error == pytest.approx(
        (pairs[margin.rival] - pairs[0]).double().std().item() / 20**0.5, rel=1e-4
    )


@pytest.mark.parametrize("rule", RULES)
def test_pairs_that_a_block_would_cut_are_refused(rule):
    with pytest.raises(UserError, match="groups of 2 trials at one timestep, which 1,16,6 cannot hold"):
        rule(20, 1, first=16, block=6, group=2)
    with pytest.raises(UserError, match="which 2,16,5 cannot hold; give multiples of 2"):
        rule(20, 2, first=16, block=5, group=2)


@pytest.mark.parametrize("samples", [5, 50, 500])
def test_the_mixture_bound_is_the_equation_of_the_paper(samples):
    rho_squared = (-2 * math.log(0.02) + math.log(1 - 2 * math.log(0.02))) / 50  # tightest at 50 samples, alpha = 0.01
    v = samples * rho_squared
    expected = (2 * (v + 1) / v * math.log1p((v + 1) ** 0.5 / 0.02)) ** 0.5
    assert mixture_bound(0.01, samples, 50) == pytest.approx(expected)
