"""Put a trained head into the package, as what `perception segment` or `perception depth` takes without --model.

python tools/ship_head.py runs/vpd_mini_world/model semantic
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Copy the folder, weights in float16; 0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder WORK_DIR/model of a training")
    parser.add_argument("task", choices=("semantic", "referring", "depth"))
    parser.add_argument("--heads", type=Path, help="folder of the heads (default: the package's)")
    args = parser.parse_args(arguments)

    def work() -> None:
        from recipes.heads import write_half

        from perception.encoders.artifact import SHIPPED

        out = (args.heads or SHIPPED) / f"mini-{args.task}"
        write_half(args.model, out)
        print(f"{out}: {(out / 'model.safetensors').stat().st_size / 1e6:.1f} MB of weights")

    return exit_status("ship_head", work)


if __name__ == "__main__":
    sys.exit(main())
