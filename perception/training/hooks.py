"""Hooks: figures as JSON, overlay pictures, and checkpoints that are whole or absent.

The checkpoint hook writes and deletes in an order that any kill or full disk can interrupt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import mmengine.hooks
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from perception.data.files import write_atomic
from perception.data.pictures import png_bytes
from perception.errors import UserError
from perception.training.panels import panels, picture_name
from perception.training.registry import HOOKS


class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's, which deletes the checkpoints of before and then writes; here they go once the new ones are whole.

    So a run that ends while it writes resumes from the checkpoint before. The disk holds one checkpoint more meanwhile.
    """

    file_backend: Any  # of mmengine, from before_train on

    def before_train(self, runner: Runner) -> None:
        """Find the places, and put off what is deleted from now on."""
        super().before_train(runner)
        self.file_backend = _PutOff(self.file_backend)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write, then delete."""
        super().after_train_epoch(runner)
        self._delete()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Write, then delete."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._delete()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write, then delete."""
        super().after_val_epoch(runner, metrics)
        self._delete()

    def _delete(self) -> None:
        best = getattr(self, "best_ckpt_path_dict", {"": getattr(self, "best_ckpt_path", None)})
        self.file_backend.delete(spared=[self.last_ckpt, *best.values()])


class _PutOff:
    """A file backend of mmengine that keeps a list of what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._doomed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        """Later."""
        self._doomed.append(path)

    def delete(self, spared: Sequence[str | None]) -> None:
        """Remove what waits, less the paths that were written again."""
        doomed, self._doomed = self._doomed, []
        for path in doomed:
            if path not in spared and self._backend.isfile(path):
                self._backend.remove(path)


@HOOKS.register_module()
class MetricsFile(Hook):
    """WORK_DIR/metrics.json: every validation of the run and the best one by `key`."""

    def __init__(self, key: str = "mIoU", rule: Literal["greater", "less"] = "greater") -> None:
        self.key = key
        self.sign = 1 if rule == "greater" else -1

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Append this validation; entries of a resumed run that lie ahead of it are dropped."""
        path = Path(runner.work_dir) / "metrics.json"
        earlier = json.loads(path.read_text())["validation"] if path.exists() else []
        entry = {
            "iteration": runner.iter,
            "epoch": runner.epoch,
            **(metrics or {}),
            **evaluator_report(runner.val_evaluator),
        }
        history = [*(e for e in earlier if e["iteration"] < runner.iter), entry]
        best = max(history, key=self._score)
        write_atomic(path, json.dumps({"best": best, "validation": history}, indent=1).encode())

    def _score(self, entry: dict[str, Any]) -> float:
        value = entry.get(self.key)
        return float("-inf") if value is None or math.isnan(value) else self.sign * value


@HOOKS.register_module()
class FlushStore(Hook):
    """Write the feature store at the end of every epoch, so that a killed run keeps what it computed."""

    def after_train_epoch(self, runner: Runner) -> None:
        """Flush."""
        flush_store(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Flush."""
        flush_store(runner)


@HOOKS.register_module()
class WholeCheckpoints(Hook):
    """Refuse a checkpoint whose keys or shapes differ from the model's, naming every one (mmengine only warns)."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare before the weights are copied."""
        check_state(checkpoint["state_dict"], unwrapped(runner.model).state_dict(), "the checkpoint")


@HOOKS.register_module()
class OverlayPictures(Hook):
    """FOLDER/<name>.png for every tested sample: the image, the prediction and the ground truth side by side."""

    def __init__(self, folder: str, opacity: float = 0.6) -> None:
        self.folder = Path(folder)
        self.opacity = opacity

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw one batch; `data_batch["inputs"]` holds BGR uint8 [3, H, W]."""
        palette = runner.test_dataloader.dataset.metainfo.get("palette")
        images = (data_batch or {})["inputs"]
        if isinstance(images[0], (list, tuple)):  # test-time augmentation: a list of images per version; the first
            images = images[0]
        for image, sample in zip(images, outputs or [], strict=True):
            picture = panels(image.cpu().numpy(), sample, palette, self.opacity)
            write_atomic(self.folder / picture_name(sample), png_bytes(picture))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper or test-time augmentation, or the model."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def flush_store(runner: Runner) -> None:
    """Write what the stores of the model's parts still hold in memory."""
    for module in unwrapped(runner.model).modules():
        flush = getattr(module, "flush_store", None)
        if flush is not None:
            flush()


def evaluator_report(evaluator: Any) -> dict[str, Any]:
    """The `report` of the metrics that keep one (such as SegmentationIoU), merged."""
    merged: dict[str, Any] = {}
    for metric in evaluator.metrics:
        merged |= getattr(metric, "report", {})
    return merged


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise a UserError that lists every missing, unexpected and mis-shaped key of `state`."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    faults = [f"missing {key}" for key in wanted if key not in state]
    faults += [f"unexpected {key}" for key in state if key not in wanted]
    faults += [
        f"{key} is {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        raise UserError(
            f"{source} does not fit the model of this config; use the config it was trained with: " + "; ".join(faults)
        )
