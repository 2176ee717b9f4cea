"""Kills a generate job at every disk operation of its end: `generate_kills.py FOLDER TINY_SD`. Prints how many."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from crash_points import dying
from crash_points import forked as run_forked
from kills import Job
from PIL import Image
from tiny_jobs import contents

from perception.backbones import load_backbone
from perception.backbones.loading.build import randomize
from perception.generation import CITYSCAPES, new_control
from perception.generation.publishing.publish import finish

SAMPLES = 9


def prepare(root: Path, tiny_sd: Path) -> list[str]:
    """Three label maps and a control network; returns the command without --out."""
    (root / "maps").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        labels = np.kron(rng.integers(0, 19, (5, 6)), np.ones((16, 16))).astype(np.uint8)
        labels[:8] = 255
        Image.fromarray(labels).save(root / "maps" / f"{number}_labelTrainIds.png")
    control = new_control(load_backbone(tiny_sd, device="cpu"), 20)
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        randomize(part, "labels")
    control.save_pretrained(root / "control")
    models = ["--control", root / "control", "--backbone", tiny_sd, "--device", "cpu"]
    small = ["--size", "64", "--steps", "1", "--rescale", "1", "--window", "8", "--stride", "8"]
    job = ["--labels", root / "maps", "--per-label", SAMPLES // 3, "--domains", "night,fog", "--no-progress"]
    return ["generate", *map(str, [*models, *small, *job])]


def survive_in_the_end(out: Path, expected: dict[str, bytes]) -> int:
    """Die at every disk operation that completes the data set; returns how many there are."""
    at, status = 0, 9
    while status == 9:
        at += 1
        for name in expected:
            if "/" not in name and name not in ("manifest.jsonl", "job.json"):
                (out / name).unlink(missing_ok=True)
        status = run_forked(lambda at=at: (dying(at, lambda: os._exit(9)), finish(out, CITYSCAPES)))
        assert status in (0, 9), status
        finish(out, CITYSCAPES)
        left = {name: found for name, found in contents(out).items() if not name.endswith(".tmp")}  # the next job's
        assert left == expected
    return at - 1


def run(root: Path, tiny_sd: Path) -> None:
    """A whole job, then every way to die at its end."""
    torch.set_num_threads(1)
    command = prepare(root, tiny_sd)
    Job(command).run(root / "plain")
    expected = contents(root / "plain")
    assert len([name for name in expected if name.startswith("images/")]) == SAMPLES
    print(f"survived {survive_in_the_end(root / 'plain', expected)} kills in the end")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
