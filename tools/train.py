"""Train a head on a frozen diffusion backbone (or anything else that a config describes) with mmengine's Runner."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import exit_status

_EXAMPLES = """examples:
  python tools/train.py configs/fpn/fpn_mini_camvid.py --data-root data/camvid
  python tools/train.py configs/fpn/fpn_mini_world.py --cfg-options train_cfg.max_epochs=2
  python tools/train.py configs/fpn/fpn_mini_camvid.py --cfg-options model.backbone.random_init_seed=0 \\
         --work-dir runs/fpn_random_camvid          # the control: the same head on random backbone weights
  python tools/train.py configs/fpn/fpn_mini_camvid.py --resume          # continue after Ctrl-C
  torchrun --nproc-per-node 2 tools/train.py configs/fpn/fpn_sd15_ade20k.py --amp

accumulation: --cfg-options optim_wrapper.accumulative_counts=4
results: WORK_DIR/metrics.json (every validation), WORK_DIR/model (the best head, for tools/test.py)"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of tools/train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file, see configs/README.md")
    parser.add_argument("--work-dir", help="checkpoints, logs and results (default: runs/<config name>)")
    parser.add_argument("--data-root", help="folder of the data set, instead of the config's")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of the work dir")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument(
        "--ema", type=_share, metavar="MOMENTUM", help="validate and export averaged weights, e.g. 0.01"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config, e.g. train_cfg.max_epochs=3",
    )
    return parser


def _share(text: str) -> float:
    """An argparse type: a number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1; expected a small number such as 0.01")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Parse, then import the training stack, then train; 0, or 2 with one sentence on stderr."""
    args = build_parser().parse_args(arguments)

    def work() -> None:
        from perception.training.app import train
        from perception.training.config.load import Overrides

        overrides = Overrides(tuple(args.cfg_options), args.data_root, args.work_dir)
        train(args.config, overrides, resume=args.resume, amp=args.amp, ema=args.ema)

    return exit_status("train", work, "run the same command with --resume to continue")


if __name__ == "__main__":
    sys.exit(main())
