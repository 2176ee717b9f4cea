"""Five times as many classes take five times the work: counted in steps of Python and numbers that torch writes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import perception
from perception.backbones.conditioning.condition import Condition
from perception.classification.calibration import calibrate
from perception.classification.error_table import ErrorTable
from perception.classification.prompts import class_prompts
from perception.classification.race import race_ranking
from perception.classification.replay import Recorded
from perception.classification.stopping.racing import Racing
from perception.metrics.classification import ClassificationMetrics, format_table

FEW, MANY = 200, 1000
PACKAGE = str(Path(perception.__file__).parent)


class _Written(TorchDispatchMode):
    """Counts the numbers that operations write; views write none."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        values = found if isinstance(found, (tuple, list)) else [found]
        for value, returned in zip(values, function._schema.returns, strict=False):
            is_view = returned.alias_info is not None and not returned.alias_info.is_write
            if isinstance(value, torch.Tensor) and not is_view:
                self.numbers += value.numel()
        return found


@contextmanager
def _steps() -> Iterator[list[int]]:
    """Counts calls and lines of this package; every turn of a loop is one."""
    count = [0]

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def _work(task: Callable[[int], object], classes: int) -> tuple[int, int]:
    with _steps() as steps, _Written() as written:
        task(classes)
    return steps[0], written.numbers


def _prompts(classes: int) -> None:
    """The rows of every class, and the class of every folder name."""
    prompts = class_prompts([f"class {c}" for c in range(classes)], ["a {}", "the {}"])
    for c in range(classes):
        assert prompts.rows(c) == (2 * c, 2 * c + 1)
        assert prompts.find(f"Class_{c}") == c
    assert len(prompts.select(range(0, classes, 2))) == classes


def _figures(classes: int) -> None:
    """Accuracies, the table and the confusions."""
    names = [f"class {c}" for c in range(classes)]
    truth = torch.arange(classes)
    ranked = torch.stack([(truth + shift) % classes for shift in range(5)], dim=1)
    metrics = ClassificationMetrics.of(ranked, truth, classes) + ClassificationMetrics.of(ranked, truth, classes)
    assert metrics.top1 == 1 and not metrics.mistakes(names) and "class 3" in format_table(metrics, names)
    assert metrics.grouped(100).counts.sum() == 2 * classes


def _calls(classes: int) -> None:
    """The rows of each denoiser call."""
    condition = Condition(torch.arange(float(classes)).view(-1, 1, 1))
    for first in range(0, classes, 8):
        assert condition[torch.arange(first, first + 8)].hidden.flatten().tolist() == list(range(first, first + 8))
        assert len(condition[first : first + 8]) == len(condition[[first, -1]]) + 6


def _race(classes: int) -> None:
    """The decisions about one image."""
    rule = Racing(samples=40)
    table = ErrorTable(classes, 40)
    history = []
    for number, (first, last) in enumerate(zip([0, *rule.ends()], rule.ends(), strict=False)):
        history.append(table.alive)
        table.add(torch.rand(len(table.alive), last - first) + torch.tensor(table.alive)[:, None] % 3)
        table.alive = rule.decide(number, table).alive
    assert race_ranking([*history, table.alive], table.means().tolist(), range(classes))[0] % 3 == 0


def _weights(classes: int) -> None:
    """What labelled images teach, from recorded errors."""
    errors = torch.rand(classes, 4)
    errors[0] -= 1
    assert calibrate([Recorded(errors, (0, 1, 2, 3), tuple(range(classes)), 0)], weigh_timesteps=True).weights


@pytest.mark.parametrize("task", [_prompts, _figures, _calls, _race], ids=lambda task: task.__name__)
def test_the_work_grows_with_the_classes(task):
    few, many = _work(task, FEW), _work(task, MANY)
    for before, after in zip(few, many, strict=True):
        assert after <= 8 * max(before, 1000), f"{before} -> {after}; linear is {MANY // FEW} times as much"


def test_learning_looks_at_each_candidate_once():
    with _steps() as steps:
        _weights(MANY)
    assert steps[0] < 20 * MANY
