"""Pictures of the miniature world as files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.commands.main import main
from perception.data.world import render_object, render_scene


def test_objects_lie_in_one_folder_per_class(tmp_path: Path) -> None:
    assert main(["world", "objects", "--out", str(tmp_path), "--count", "3", "--classes", "cup,fish"]) == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        "cup/000000.png",
        "cup/000002.png",
        "fish/000001.png",
    ]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "fish/000001.png")), render_object(2, 1, "fish").image)


def test_scenes_come_with_labels_depth_and_captions(tmp_path: Path) -> None:
    arguments = ["--count", "2", "--domains", "fog,rain", "--size", "64", "--width", "96"]
    assert main(["world", "scenes", "--out", str(tmp_path), *arguments]) == 0
    scene = render_scene(2, 1, "rain", (64, 96))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/000001_rain.png")), scene.image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "annotations/000001_rain.png")), scene.labels)
    depth = np.asarray(Image.open(tmp_path / "depth/000001_rain.png")) / 1000
    assert np.abs(depth - np.minimum(scene.depth, 65.535)).max() <= 0.0006
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["domain"] for line in lines] == ["fog", "rain"]


def test_an_unknown_domain_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "scenes", "--out", str(tmp_path), "--domains", "hail"]) == 2
    assert "unknown domain 'hail'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--first", "--seed"])
def test_negative_numbers_are_no_place_in_a_stream(option: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["world", "objects", "--out", str(tmp_path), option, "-1"])
    assert f"argument {option}: -1 is not at least 0" in capsys.readouterr().err
