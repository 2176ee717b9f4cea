"""Probes on made-up features whose answer is known."""

import csv
import io

import numpy as np
import pytest

from perception.classification.probing.probe import (
    PROBES,
    Cell,
    best_cell,
    cells_csv,
    check_labels,
    heat_map,
    make_probe,
    sweep,
)
from perception.errors import UserError

LABELS = ["a"] * 12 + ["b"] * 12 + ["c"] * 12


def _features():
    random = np.random.default_rng(0)
    noise = random.normal(size=(36, 6)).astype(np.float32)
    told = noise + 40 * np.repeat(np.eye(3, 6), 12, axis=0).astype(np.float32)
    return {("good", 50): told, ("noise", 50): noise}


def test_every_probe_separates_what_can_be_separated():
    cells = list(sweep(_features(), LABELS, PROBES, folds=3))
    accuracy = {(cell.tap, cell.probe): cell.accuracy for cell in cells}
    assert all(accuracy["good", probe] == 1.0 for probe in PROBES)
    assert all(accuracy["noise", probe] < 0.7 for probe in PROBES)
    assert best_cell(cells) == Cell("good", 50, "linear", 1.0, 0.0)
    assert cells == list(sweep(_features(), LABELS, PROBES, folds=3))
    assert cells[3:] != list(sweep(_features(), LABELS, PROBES, folds=3, seed=1))[3:]


def test_csv_and_picture():
    cells = [Cell("mid_block", 50, "knn", 0.51239, 0.1), Cell("mid_block", 300, "knn", 0.25, 0.0)]
    rows = list(csv.DictReader(io.StringIO(cells_csv(cells))))
    assert rows[0] == {
        "tap": "mid_block",
        "timestep": "50",
        "probe": "knn",
        "accuracy": "0.5124",
        "spread": "0.1000",
    }
    assert heat_map(cells).startswith(b"\x89PNG")


def test_impossible_splits_get_one_sentence():
    check_labels(LABELS, 12)
    with pytest.raises(UserError, match=r"13-fold cross-validation needs .* class 'a' has 12; add images or lower"):
        check_labels(LABELS, 13)
    with pytest.raises(UserError, match="1-fold cross-validation needs 2 folds or more"):
        check_labels(LABELS, 1)
    with pytest.raises(UserError, match="at least two classes, but the folder has 1"):
        check_labels(["a", "a"], 2)
    with pytest.raises(UserError, match="unknown probe 'tree'; choose from linear, ridge, knn"):
        make_probe("tree")
