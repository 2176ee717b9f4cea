"""mmengine's checkpoint hook, in an order of writing and deleting that any kill or full disk can interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mmengine.hooks
from mmengine.runner import Runner


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
