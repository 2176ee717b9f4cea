"""Hooks by themselves."""

import json
from types import SimpleNamespace

from perception.training.hooks import MetricsFile


def test_a_validation_that_is_not_a_number_is_never_the_best(tmp_path):
    """As for mmengine's choice of the checkpoint that is exported with these figures."""
    hook = MetricsFile("rmse", "less")
    for epoch, rmse in enumerate([float("nan"), 3.0, 2.0, float("nan")], 1):
        runner = SimpleNamespace(work_dir=tmp_path, iter=epoch, epoch=epoch, val_evaluator=SimpleNamespace(metrics=[]))
        hook.after_val_epoch(runner, {"rmse": rmse})
    assert json.loads((tmp_path / "metrics.json").read_text())["best"]["epoch"] == 3
