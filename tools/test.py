"""Evaluate a trained head on the test data of a config: mIoU, IoU per class, pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import exit_status

_EXAMPLES = """examples:
  python tools/test.py configs/fpn/fpn_mini_camvid.py runs/fpn_mini_camvid/model --show-dir runs/camvid_pictures
  python tools/test.py configs/fpn/fpn_mini_world.py runs/fpn_mini_world/model \\
         --cfg-options test_dataloader.dataset.domain=night
  python tools/test.py configs/vpd/vpd_sd15_ade20k.py runs/vpd_sd15_ade20k/model --tta          # multi-scale + flip

results: WORK_DIR/test_metrics.json, and in --show-dir one picture per image: image | prediction | ground truth"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of tools/test.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config file, see configs/README.md")
    parser.add_argument(
        "weights", type=Path, help="a folder that training exported (WORK_DIR/model), or a .pth checkpoint"
    )
    parser.add_argument("--work-dir", help="logs and results (default: runs/<config name>/test)")
    parser.add_argument("--data-root", help="folder of the data set, instead of the config's")
    parser.add_argument("--show-dir", type=Path, help="write overlay pictures into this folder")
    parser.add_argument(
        "--tta",
        nargs="*",
        type=float,
        metavar="RATIO",
        help="average each image's class probabilities over these scales, and their mirror images (default: 1.0 1.125"
        " 1.25 1.375 1.5)",
    )
    parser.add_argument("--no-flip", action="store_true", help="with --tta: without the mirror images")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config, e.g. test_dataloader.batch_size=1",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse, then import the training stack, then test; 0, or 2 with one sentence on stderr."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.no_flip and args.tta is None:
        parser.error("--no-flip leaves mirror images out of --tta; add --tta, or leave --no-flip out")

    def work() -> None:
        from perception.training.app import test
        from perception.training.config.load import Overrides
        from perception.training.tta import VPD_RATIOS, Views

        overrides = Overrides(tuple(args.cfg_options), args.data_root, args.work_dir)
        views = None if args.tta is None else Views(tuple(args.tta) or VPD_RATIOS, flip=not args.no_flip)
        test(args.config, args.weights, overrides, args.show_dir, views)

    return exit_status("test", work, "run it again")


if __name__ == "__main__":
    sys.exit(main())
