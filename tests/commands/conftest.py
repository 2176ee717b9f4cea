"""`perception classify` on the tiny backbone, and a small labelled folder for it."""

import numpy as np
import pytest
from PIL import Image

from perception.commands.main import main

QUICK = ("--size", "64", "--device", "cpu", "--no-progress")
STAGES = ("--samples", "2,4", "--keep", "2,1")


@pytest.fixture
def folder(tmp_path):
    """Two classes with two images each."""
    random = np.random.default_rng(0)
    for name in ("cat", "fire_truck"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def run(tiny_sd, tmp_path, capsys):
    """Run the command; returns status, stdout, stderr."""

    def call(*arguments, out=tmp_path / "out", stages=STAGES):
        options = [*QUICK, *stages, *map(str, arguments)]
        status = main(["classify", "--backbone", str(tiny_sd), "--out", str(out), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
