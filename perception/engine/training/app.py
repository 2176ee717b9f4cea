"""What tools/train.py and tools/test.py do once their arguments are parsed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import Tensor, nn

from perception.data.files import write_atomic
from perception.engine.convert.layouts import UNET
from perception.engine.training.artifact import (
    export_model,
    export_network,
    fingerprint_of,
    read_artifact,
    read_weights,
)
from perception.engine.training.check import find_type
from perception.engine.training.config import Overrides, complete_model, load_config, preflight
from perception.engine.training.generator_export import export_generator
from perception.engine.training.generator_model import GeneratorModel
from perception.engine.training.hooks import check_state, evaluator_report, flush_store, unwrapped
from perception.engine.training.runner import Runner, distributed, use_mixed_precision
from perception.engine.training.task_models import NETWORKS, TaskModel
from perception.engine.training.tta import Views, augment_pipeline, averaging
from perception.errors import UserError
from perception.metrics.confusion import format_report

_HOOKS = [{"type": f"perception.{name}"} for name in ("WholeCheckpoints", "FlushStore", "SourceCounts")]
_SIGNS = {"semantic": "decode_head.", "referring": "network.decoder.", "depth": "network.head."}  # in checkpoints
_ADAPTERS = {
    "referring": "perception.ReferringSegmentor",
    "depth": "perception.DepthEstimator",
    "the source style": "perception.SourceGenerator",
    "control": "perception.ControlGenerator",
}


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
    _check_work_dir(Path(config.work_dir), resume)
    config.resume = resume
    average = [] if ema is None else [{"type": "EMAHook", "momentum": ema}]
    config.custom_hooks = [*(config.get("custom_hooks") or []), _metrics_file(config), *_HOOKS, *average]
    if amp:
        use_mixed_precision(config)
    with distributed(config):
        preflight(config, ("train_dataloader", "val_dataloader"))
        complete_model(config)
        runner = Runner.from_cfg(config)
        with _guarded(runner):
            runner.train()
        if is_main_process():
            _export_best(runner, config)
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
    if task_of(config) in ("the source style", "control"):
        raise UserError(
            f"{config_file} trains a generator, whose validations are in metrics.json of its work directory; make"
            " pictures with `perception generate`, and test what is trained on them"
        )
    artifact = read_artifact(weights) if weights.is_dir() else None
    state = read_weights(weights) if artifact else read_checkpoint(weights)
    _check_task(config, state, artifact, weights)
    if views is not None:
        if task_of(config) != "semantic":
            raise UserError(
                f"--tta averages class probabilities, but {config_file} is for {task_of(config)}; leave it out"
            )
        augment_pipeline(config, views)
    if artifact:
        _take_model(config, artifact)
        state = {f"network.{key}": value for key, value in state.items()} if "task" in artifact else state
    preflight(config, ("test_dataloader",))
    complete_model(config)
    if views is not None:
        averaging(config)
    pictures = [{"type": "perception.OverlayPictures", "folder": str(show_dir)}] if show_dir else []
    config.custom_hooks = [*(config.get("custom_hooks") or []), *pictures]
    with distributed(config):
        runner = Runner.from_cfg(_for_testing(config))
        _load_state(runner.model, state, weights, artifact)
        with _guarded(runner):
            runner.test()
        report = evaluator_report(runner.test_evaluator)
        if is_main_process():
            write_atomic(Path(config.work_dir) / "test_metrics.json", json.dumps(report, indent=1).encode())
    return report


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The model weights of an mmengine checkpoint, read without running pickled code.

    Raises:
        UserError: the file is missing, torn, or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a .pth file or the folder WORK_DIR/model")
    if not zipfile.is_zipfile(path):  # torch.save writes a zip; its directory stands at the end, so a torn one is none
        raise UserError(f"{path} is no checkpoint, or a torn one; train again or copy it again")
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (RuntimeError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no checkpoint of mmengine with plain tensors ({reason}); train again") from error


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
    """The hook that picks the best validation by what the checkpoint hook picks it by."""
    chosen = config.default_hooks.get("checkpoint") or {}
    key, rule = chosen.get("save_best") or "mIoU", chosen.get("rule") or "greater"
    return {"type": "perception.MetricsFile", "key": key, "rule": rule}


def _check_task(config: Config, state: Mapping[str, Tensor], artifact: dict[str, Any] | None, source: Path) -> None:
    """UserError for the weights of another task, and for those of a published checkpoint as it is."""
    if any(name.startswith(UNET) for name in state):
        raise UserError(
            f"{source} is a checkpoint of VPD's authors; make a folder of it with `perception convert` first"
        )
    signs = (task for task, prefix in _SIGNS.items() if any(name.startswith(prefix) for name in state))
    wanted = task_of(config)
    task = artifact.get("task", "semantic") if artifact else next(signs, wanted)
    if task != wanted:
        raise UserError(f"{source} is a model for {task}, but the data of this config are for {wanted}; match the two")


def _take_model(config: Config, artifact: dict[str, Any]) -> None:
    """Put the model of an artifact into a config, in place; store and test options stay the config's."""
    task = artifact.get("task", "semantic")
    if task != "semantic":
        arguments = {key: value for key, value in artifact.items() if key != "metrics"}
        config.model.network = {"type": NETWORKS[task], **arguments}
        return
    store = config.model.backbone.get("store")
    own = artifact["model"]
    config.model = own | {"backbone": own["backbone"] | ({"store": store} if store else {})}


def _check_work_dir(work_dir: Path, resume: bool) -> None:
    if (work_dir / "last_checkpoint").exists() and not resume:
        raise UserError(f"{work_dir} already holds a run; add --resume to continue it, or choose another --work-dir")


def _export_best(runner: Runner, config: Config) -> None:
    work_dir = Path(config.work_dir)
    best = runner.message_hub.runtime_info.get("best_ckpt")
    model = unwrapped(runner.model)
    if best is not None:
        model.load_state_dict(read_checkpoint(Path(best)))
    path = work_dir / "metrics.json"
    figures = json.loads(path.read_text())["best"] if path.exists() else {}
    folder = work_dir / "model"
    if isinstance(model, GeneratorModel):
        export_generator(model, folder, config.train_dataloader.dataset.to_dict(), figures)
        runner.logger.info(f"trained network: {folder}, all validations: {path}")
        return
    size = _image_size(runner, config)
    if isinstance(model, TaskModel):
        export_network(model.network, folder, size, figures)
    else:
        export_model(model, config.model.to_dict(), runner.train_dataloader.dataset.metainfo, folder, size, figures)
    if "IoU" in figures:
        title = f"best validation (iteration {figures['iteration']}) [%]"
        runner.logger.info(format_report(figures, title))
    runner.logger.info(f"trained head: {folder}, all validations: {path}")


def _image_size(runner: Runner, config: Config) -> list[int] | None:
    """Height and width of the training images; None where inference slides over images of any size."""
    if config.model.get("test_cfg", {}).get("mode") == "slide":
        return None
    return list(runner.train_dataloader.dataset[0]["inputs"].shape[-2:])


def task_of(config: Config) -> str:
    """semantic, referring, depth, or a stage of the generator: what the model of a config is for."""
    target = find_type(config.model.type)
    return next((task for task, name in _ADAPTERS.items() if find_type(name) is target), "semantic")


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


def _load_state(model: nn.Module, state: dict[str, Tensor], source: Path, artifact: dict[str, Any] | None) -> None:
    model = unwrapped(model)
    check_state(state, model.state_dict(), str(source))
    model.load_state_dict(state)
    if artifact is None or isinstance(model, TaskModel):  # a network compares fingerprints when it is made
        return
    found = fingerprint_of(model)
    if artifact.get("backbone_fingerprint") != found:
        raise UserError(
            f"{source} was trained on backbone weights {artifact.get('backbone_fingerprint')}, but those here are"
            f" {found}; use the same backbone or train the head again"
        )
