"""What tools/train.py and tools/test.py do once their arguments are parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from perception.data.files import explain_disk_errors, write_atomic
from perception.encoders.vpd.checks import check_training
from perception.encoders.vpd.encoder import VPD
from perception.errors import UserError
from perception.training.config.load import Overrides, complete_model, load_config, preflight
from perception.training.export.best import export_best, not_exported
from perception.training.export.mmseg_model import read_weights
from perception.training.export.weights import (
    check_task,
    load_state,
    read_checkpoint,
    take_model,
    task_of,
    trained_config,
)
from perception.training.hooks import evaluator_report, flush_store, unwrapped
from perception.training.runner import Runner, distributed, use_mixed_precision
from perception.training.tta import Views, augment_pipeline, averaging

_HOOKS = [{"type": f"perception.{name}"} for name in ("WholeCheckpoints", "FlushStore", "SourceCounts")]


def train(
    config_file: Path, overrides: Overrides, *, resume: bool = False, amp: bool = False, ema: float | None = None
) -> Path:
    """Train, validate, and export the best checkpoint.

    Args:
        config_file: a config of configs/ or your own.
        overrides: from the command line.
        resume: continue from the newest checkpoint of the work directory; a finished run is only exported again.
        amp: mixed precision: float16 on GPUs, bfloat16 on CPUs.
        ema: momentum of an exponential moving average of the weights, which is then what is validated and exported.

    Returns: WORK_DIR/model, the artifact folder. WORK_DIR/metrics.json holds every validation.
    Raises:
        UserError: mistakes in the config, bad data, or a work directory that holds another run.
    """
    config = load_config(config_file, overrides)
    began_trained = config.get("load_from") is not None  # then what stays as it is comes trained
    if _check_work_dir(Path(config.work_dir), resume):
        config.load_from = None  # mmengine would resume from that file instead
    config.resume = resume
    average = [] if ema is None else [{"type": "EMAHook", "momentum": ema}]
    config.custom_hooks = [*(config.get("custom_hooks") or []), _metrics_file(config), *_HOOKS, *average]
    if amp:
        use_mixed_precision(config)
    with distributed(config):
        preflight(config, ("train_dataloader", "val_dataloader"))
        complete_model(config)
        runner = Runner.from_cfg(config)
        if not began_trained:
            _check_training(runner)
        if reason := not_exported(unwrapped(runner.model), config):
            runner.logger.warning(reason)
        with _guarded(runner):
            runner.train()
        if is_main_process():
            export_best(runner, config)
    return Path(config.work_dir) / "model"


def test(
    config_file: Path, weights: Path, overrides: Overrides, show_dir: Path | None = None, views: Views | None = None
) -> dict[str, Any]:
    """Evaluate a checkpoint (.pth) or an artifact folder on the test data of a config.

    The model of an artifact folder is the one in its config.json; the data are the config's. With `views`, class
    probabilities are averaged over scales and mirror images.

    Returns: the report of ConfusionMatrix, ReferringMetrics or DepthMetrics, also in WORK_DIR/test_metrics.json.
    Raises:
        UserError: mistakes in the config, bad data, or weights that do not fit.
    """
    config = load_config(config_file, overrides)
    config.work_dir = overrides.work_dir or str(Path(config.work_dir) / "test")
    _make_folder(Path(config.work_dir))
    if task_of(config) in ("the source style", "control"):
        raise UserError(
            f"{config_file} trains a generator, whose validations are in metrics.json of its work directory; make"
            " pictures with `perception generate`, and test what is trained on them"
        )
    artifact = trained_config(weights) if weights.is_dir() else None
    state = read_weights(weights) if artifact else read_checkpoint(weights)
    check_task(config, state, artifact, weights)
    if views is not None:
        if task_of(config) != "semantic":
            raise UserError(
                f"--tta averages class probabilities, but {config_file} is for {task_of(config)}; leave it out"
            )
        augment_pipeline(config, views)
    if artifact:
        take_model(config, artifact)
        state = {f"network.{key}": value for key, value in state.items()} if "task" in artifact else state
    preflight(config, ("test_dataloader",))
    complete_model(config)
    if views is not None:
        averaging(config)
    pictures = [{"type": "perception.OverlayPictures", "folder": str(show_dir)}] if show_dir else []
    config.custom_hooks = [*(config.get("custom_hooks") or []), *pictures]
    with distributed(config):
        runner = Runner.from_cfg(_for_testing(config))
        load_state(runner.model, state, weights, artifact)
        with _guarded(runner):
            runner.test()
        report = evaluator_report(runner.test_evaluator)
        if is_main_process():
            write_atomic(Path(config.work_dir) / "test_metrics.json", json.dumps(report, indent=1).encode())
    return report


@contextmanager
def _guarded(runner: Runner) -> Iterator[None]:
    """Keep what was computed, however a run ends, and turn errors of data-loader processes back into sentences.

    A UserError of such a process arrives with the traceback of that process; its last line is the sentence.
    """
    try:
        yield
    except UserError as error:
        lines = str(error).strip().splitlines()
        if lines and lines[0].startswith("Caught UserError"):
            raise UserError(lines[-1].partition("UserError: ")[2] or lines[-1]) from error
        raise
    finally:
        flush_store(runner)


def _metrics_file(config: Config) -> dict[str, Any]:
    """The hook that picks the best validation by what the checkpoint hook picks it by: one figure, by its name."""
    chosen = (config.get("default_hooks") or {}).get("checkpoint") or {}
    key, rule = chosen.get("save_best") or "mIoU", chosen.get("rule") or "greater"
    if not isinstance(key, str) or key == "auto":
        raise UserError(
            f"default_hooks.checkpoint.save_best is {key!r}; name the one figure that chooses the best validation, such"
            " as mIoU, or rmse with default_hooks.checkpoint.rule=less"
        )
    return {"type": "perception.MetricsFile", "key": key, "rule": rule}


def _check_training(runner: Runner) -> None:
    for module in unwrapped(runner.model).modules():
        if isinstance(module, VPD):
            check_training(module)


def _check_work_dir(work_dir: Path, resume: bool) -> bool:
    """Whether there is a run to continue. Makes the folder; UserError where that fails or a run may not continue."""
    _make_folder(work_dir)
    mark = work_dir / "last_checkpoint"
    if not mark.exists():
        return False
    if not resume:
        raise UserError(f"{work_dir} already holds a run; add --resume to continue it, or choose another --work-dir")
    newest = mark.read_text().strip()
    if not Path(newest).is_file():
        raise UserError(
            f"{mark} names the checkpoint {newest!r}, which is not there; write the path of one that is into that file,"
            " or choose another --work-dir"
        )
    return True


def _make_folder(path: Path) -> None:
    with explain_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def _for_testing(config: Config) -> Config:
    """The config without training and validation, whose parts the Runner would build or demand."""
    names = (
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
    )
    kept = {key: value for key, value in config.to_dict().items() if key not in names}
    return Config({**kept, "default_hooks": {"checkpoint": None, "param_scheduler": None}}, filename=config.filename)
