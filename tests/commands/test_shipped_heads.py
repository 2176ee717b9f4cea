"""The heads that ship with the package, through the commands, on held-out scenes of the miniature world."""

import json

import numpy as np
import pytest
from PIL import Image

from perception.commands.main import main
from perception.data.world import TEST_SEED, render_scene
from perception.encoders.artifact import SHIPPED

COUNT = 6
SHIPPED_BYTES = 80e6  # all weights of the project together


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The folder of pictures and the scenes that they show."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn = [render_scene(TEST_SEED, index) for index in range(COUNT)]
    for index, scene in enumerate(drawn):
        Image.fromarray(scene.image).save(folder / f"{index}.png")
    return folder, drawn


def pictures(folder):
    return [np.asarray(Image.open(folder / f"{index}.png")) for index in range(COUNT)]


def test_semantic(scenes, tmp_path):
    folder, drawn = scenes
    assert main(["segment", str(folder), "--out", str(tmp_path)]) == 0
    right = [
        (labels == scene.labels)[scene.labels != 255].mean()
        for labels, scene in zip(pictures(tmp_path / "labels"), drawn, strict=True)
    ]
    assert np.mean(right) > 0.8


def test_referring(scenes, tmp_path):
    folder, drawn = scenes
    named = [one for one in drawn[0].expressions if one.mask.mean() > 0.01]
    texts = [word for one in named for word in ("--text", one.text)]
    assert main(["segment", str(folder / "0.png"), *texts, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "manifest.jsonl").read_text())
    found = np.stack([np.asarray(Image.open(tmp_path / one["mask"])) > 0 for one in record["found"]])
    truth = np.stack([one.mask for one in named])
    assert (found & truth).sum() / (found | truth).sum() > 0.3


def test_depth(scenes, tmp_path):
    folder, drawn = scenes
    assert main(["depth", str(folder), "--out", str(tmp_path)]) == 0
    errors = []
    for millimetres, scene in zip(pictures(tmp_path / "depth"), drawn, strict=True):
        seen = (scene.depth > 0) & (scene.depth < 60)
        errors.append((np.abs(millimetres / 1000 - scene.depth) / np.maximum(scene.depth, 1e-3))[seen].mean())
    assert np.mean(errors) < 0.3


def test_the_package_stays_small():
    weights = SHIPPED.parent.rglob("*.safetensors")
    assert sum(file.stat().st_size for file in weights) < SHIPPED_BYTES
