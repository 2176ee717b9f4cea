"""`perception classify` on the tiny backbone, a small labelled folder, a small job of every command, and odd names."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_jobs import tiny_jobs

from perception.backbones import load_backbone
from perception.commands.main import main

ODD_NAMES = (
    "n" * 251 + ".png",  # 255 bytes: as long as names can be
    "n" * 250 + "m.png",
    "ü" * 125 + ".png",
    "line\nbreak\r.png",
    "\x1b[2J\x9b31m\u202egnp.png",
    os.fsdecode(b"latin-\xe9.png"),
)
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
def odd_pictures():
    """Function folder -> its new pictures of 64 x 64 pixels, one for each odd name."""

    def draw(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(ODD_NAMES):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        return ODD_NAMES

    return draw


@pytest.fixture
def shown():
    """Function text -> whether a terminal shows it as it is: only lines of printable characters."""
    return lambda text: all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture
def run(tiny_sd, tmp_path, capsys):
    """Run the command; returns status, stdout, stderr."""

    def call(*arguments, out=tmp_path / "out", stages=STAGES):
        options = [*QUICK, *stages, *map(str, arguments)]
        status = main(["classify", "--backbone", str(tiny_sd), "--out", str(out), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def tiny_commands(tmp_path_factory) -> dict[str, list[str]]:
    """Command lines of one small job of every command that writes files, without --out."""
    return tiny_jobs(tmp_path_factory.mktemp("tiny") / "in")


@pytest.fixture(scope="session")
def finished_job(tiny_commands, tmp_path_factory):
    """Function name -> the output folder of that job, run once; read only."""
    folders: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "out"
            assert main([*tiny_commands[name], "--out", str(folders[name])]) == 0
        return folders[name]

    return of


@pytest.fixture
def keep_models(monkeypatch):
    """Function after which backbones are loaded once for all commands of a process: they are frozen."""
    return lambda: monkeypatch.setattr("perception.backbones.load_backbone", _load_once)


_load_once = functools.cache(load_backbone)
