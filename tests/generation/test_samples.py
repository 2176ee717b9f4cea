"""Which domain each sample of a data set gets."""

from collections import Counter

import pytest

from perception.generation.domains import NONE
from perception.generation.samples import plan_samples

DOMAINS = ("night", "fog", "rain", "snow", NONE)


def planned(maps, per_label, domains, seed=0):
    files = {f"m{number:03d}.png": number for number in range(maps)}
    return plan_samples(files, per_label, domains, seed, dict.fromkeys(files))


@pytest.mark.parametrize("domains", [DOMAINS[:2], DOMAINS[:3], DOMAINS])
@pytest.mark.parametrize("seed", [0, 1])
def test_domains_are_dealt_out_evenly_over_a_job_of_any_size(domains, seed):
    for maps in range(1, 12):
        for per_label in range(1, 7):
            samples = planned(maps, per_label, domains, seed)
            counts = Counter(sample.domain for sample in samples)
            every = [counts["" if name == NONE else name] for name in domains]
            assert sum(every) == maps * per_label and max(every) - min(every) <= 1
            of_a_map = {(sample.source, sample.domain) for sample in samples}
            assert len(of_a_map) == maps * min(per_label, len(domains))  # repetitions of a map differ


def test_domains_are_even_where_maps_have_numbers_of_their_own():
    per_label = {f"m{number:03d}.png": (7 * number) % 5 for number in range(23)}
    counts = Counter(sample.domain for sample in planned(23, per_label, DOMAINS))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_more_repetitions_leave_the_domains_that_there_were():
    for maps in range(1, 9):
        few = {sample.id: sample.domain for sample in planned(maps, 2, DOMAINS[:3])}
        many = {sample.id: sample.domain for sample in planned(maps, 5, DOMAINS[:3])}
        assert few.items() <= many.items()


def test_the_seed_says_which_domain_comes_first():
    assert {planned(1, 1, DOMAINS, seed)[0].domain for seed in range(30)} == {"night", "fog", "rain", "snow", ""}
    assert [sample.domain for sample in planned(3, 1, ())] == [None] * 3
