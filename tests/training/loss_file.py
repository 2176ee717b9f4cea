"""Train as tools/train.py does, and keep the loss of every step: `loss_file.py CONFIG WORK_DIR [KEY=VALUE ...]`.

WORK_DIR/losses.json holds the mean over the processes.
"""

import json
import sys
from pathlib import Path

from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook

from perception.training.app import train
from perception.training.config.load import Overrides
from perception.training.registry import HOOKS


@HOOKS.register_module(force=True)
class LossFile(Hook):
    """Notes `loss`; to be named in custom_hooks."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs["loss"].detach().clone()
        all_reduce(loss, "mean")
        self.losses.append(loss.item())

    def after_train(self, runner):
        if is_main_process():
            (Path(runner.work_dir) / "losses.json").write_text(json.dumps(self.losses))


def main(config, work_dir, *options):
    """Train and return the losses."""
    train(Path(config), Overrides(options, work_dir=str(work_dir)))
    return json.loads((Path(work_dir) / "losses.json").read_text()) if is_main_process() else None


if __name__ == "__main__":
    main(*sys.argv[1:])
