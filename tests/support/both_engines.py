"""Runs the commands of FOLDER/ENGINE.json: `both_engines.py FOLDER torchrun|ray`.

OUT is FOLDER/ENGINE-NAME. One process (or rank) runs them all, so that imports and the Ray cluster are paid once.
"""

import json
import os
import sys
from pathlib import Path

from perception.commands.main import main


def run(folder: Path, engine: str) -> int:
    """The exit status of the first command that fails."""
    workers = ["--ray-workers", "2", "--ray-cpus", "1"] if engine == "ray" else []
    for name, command in json.loads((folder / f"{engine}.json").read_text()).items():
        out = ["--out", str(folder / f"{engine}-{name}")]
        if status := main([*command, *out, "--engine", engine, *workers]):
            return status
    return 0


if __name__ == "__main__":
    place, kind = Path(sys.argv[1]), sys.argv[2]
    if kind == "ray":
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    else:
        import torch.distributed as dist

        dist.init_process_group("gloo")  # one for all commands
    sys.exit(run(place, kind))
