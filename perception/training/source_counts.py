"""Hooks of mixed training: the proof of what was shown (samples per source), and a faster memory layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.data.files import write_atomic
from perception.errors import UserError
from perception.training.data.mixing import MixedSources
from perception.training.registry import HOOKS

_ENOUGH = 20  # expected samples of a source, of which none came, that cannot be chance


@HOOKS.register_module()
class SourceCounts(Hook):
    """WORK_DIR/sources.json and a log line: how many samples of each source of MixedSources the network was given.

    Counted in the batches themselves, once per epoch of the mix, before each validation and at the end. Nothing happens
    for other data sets. A run that never saw a source stops with a UserError (the released training code of DGInStyle
    drops its generated images silently).
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.periods: list[dict[str, Any]] = []
        self.first = self.drawn = 0

    def before_train(self, runner: Runner) -> None:
        """Keep what a resumed run has counted up to here."""
        path = Path(runner.work_dir) / "sources.json"
        self.first = runner.iter
        if runner.iter and path.exists() and _mixed(runner) is not None:
            earlier = json.loads(path.read_text())["periods"]
            self.periods = [period for period in earlier if period["to_iteration"] <= runner.iter]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count one batch."""
        mixed = _mixed(runner)
        if mixed is None:
            return
        self.counts.update(sample.get("source") for sample in data_batch["data_samples"])
        self.drawn += len(data_batch["data_samples"])
        if self.drawn >= (mixed.length or sum(getattr(d, "files", len(d)) for d in mixed.datasets)):
            self._report(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Report."""
        self._report(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Report."""
        self._report(runner, runner.iter)

    def _report(self, runner: Runner, iteration: int) -> None:
        mixed = _mixed(runner)
        if mixed is None or not self.drawn:
            return
        found = torch.tensor([self.counts[name] for name in mixed.names])
        all_reduce(found)
        drawn = dict(zip(mixed.names, found.tolist(), strict=True))
        self.periods.append({"from_iteration": self.first, "to_iteration": iteration, "drawn": drawn})
        self.counts, self.drawn, self.first = Counter(), 0, iteration
        wanted = dict(zip(mixed.names, mixed.plan(0).shares, strict=True))
        record = source_record(wanted, self.periods)
        if is_main_process():
            write_atomic(Path(runner.work_dir) / "sources.json", json.dumps(record, indent=1).encode())
            runner.logger.info(f"sources drawn up to iteration {iteration}: {describe(record)}")
        check_drawn(record)


@HOOKS.register_module()
class ChannelsLast(Hook):
    """Weights of convolutions in the memory layout [N, H, W, C]: the same results up to rounding, faster."""

    def before_train(self, runner: Runner) -> None:
        """Convert the model in place."""
        runner.model.to(memory_format=torch.channels_last)


def source_record(wanted: dict[str, float], periods: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What sources.json holds: wanted shares, samples drawn in all and their shares, and each period."""
    total: Counter[str] = Counter()
    for period in periods:
        total.update(period["drawn"])
    samples = sum(total.values()) or 1
    return {
        "wanted_share": wanted,
        "drawn": {name: total[name] for name in wanted},
        "drawn_share": {name: total[name] / samples for name in wanted},
        "periods": list(periods),
    }


def describe(record: dict[str, Any]) -> str:
    """'clear 480 (50.0 %, wanted 50.0 %), generated 480 (...)'."""
    return ", ".join(
        f"{name} {record['drawn'][name]} ({100 * record['drawn_share'][name]:.1f} %, wanted {100 * share:.1f} %)"
        for name, share in record["wanted_share"].items()
    )


def check_drawn(record: dict[str, Any]) -> None:
    """UserError where a source never came though it should have."""
    samples = sum(record["drawn"].values())
    for name, share in record["wanted_share"].items():
        if record["drawn"][name] == 0 and share * samples >= _ENOUGH:
            raise UserError(
                f"the source {name!r} was never drawn in {samples} samples, though {100 * share:.1f} % were asked for; "
                "let the train_dataloader use the sampler MixedSampler"
            )


def _mixed(runner: Runner) -> MixedSources | None:
    dataset = runner.train_dataloader.dataset
    return dataset if isinstance(dataset, MixedSources) else None
