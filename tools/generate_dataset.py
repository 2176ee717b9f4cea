"""Make a labelled data set of street scenes from an options file: `perception generate` with its options in a file.

python tools/generate_dataset.py CONFIG
python tools/generate_dataset.py CONFIG --dry-run                 # options behind the file win
torchrun --nproc-per-node 8 tools/generate_dataset.py CONFIG --engine torchrun

CONFIG is Python, JSON or TOML; its names are those of the command's options, for example

labels = "data/gta/labels"
backbone = "stable-diffusion-v1-5/stable-diffusion-v1-5"
control = ["DGInStyle/ControlNet_UNet-S"]
per_label = 4
domains = ["night", "fog"]
preset = "fast"
out = "runs/gen"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from perception.commands.generate.config_file import arguments_of
from perception.commands.main import main
from perception.errors import UserError


def run(argv: Sequence[str]) -> int:
    """Exit status of the job: 1 when a sample failed, 2 for bad options."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    try:
        arguments = arguments_of(argv[0], argv[1:])
    except UserError as error:
        print(f"generate_dataset: {error}", file=sys.stderr)
        return 2
    return main(["generate", *arguments, *argv[1:]])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
