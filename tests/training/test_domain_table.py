"""Means, standard deviations and gains of the table of domains."""

import math
from statistics import stdev

import pytest

from perception.training.domains import Cell, DomainTable

SCORES = {
    "source": {"clear": [60.0, 62.0], "night": [10.0, 14.0], "fog": [30.0, 30.0]},
    "generated": {"clear": [61.0, 61.0], "night": [20.0, 24.0], "fog": [36.0, 40.0]},
}


def test_means_leave_out_the_seen_domains():
    rows = DomainTable(SCORES, seen=["clear"]).rows()
    assert rows["source"]["mean"].values == (20.0, 22.0)
    assert rows["source"]["mean"].std == pytest.approx(math.sqrt(2))
    assert rows["generated"]["mean"].mean == 30.0
    assert DomainTable(SCORES).rows()["source"]["mean"].values == pytest.approx((100 / 3, 106 / 3))
    assert DomainTable({"m": {"clear": [5.0]}}, seen=["clear"]).rows()["m"]["mean"].mean == 5.0


def test_markdown():
    lines = DomainTable(SCORES, seen=["clear"]).markdown().splitlines()
    assert lines[0] == "| model | seeds | clear (seen) | night | fog | mean of unseen | gain |"
    assert lines[1].count("---") == 7
    assert lines[2] == "| source | 2 | 61.00 +- 1.41 | 12.00 +- 2.83 | 30.00 +- 0.00 | 21.00 +- 1.41 |  |"
    assert lines[3].endswith("| 30.00 +- 2.83 | +9.00 |")


def test_json_keeps_every_value():
    report = DomainTable(SCORES).to_json()
    assert report["unseen"] == ["clear", "night", "fog"]
    assert report["models"]["generated"]["night"] == {"mean": 22.0, "std": stdev([20, 24]), "values": [20.0, 24.0]}


def test_a_single_seed_has_no_deviation():
    assert Cell((3.0,)).std is None
    assert str(Cell((3.0,))) == "3.00"
    assert math.isnan(Cell(()).mean)
