"""How many scenes are rendered together, and that it shows in the bytes of a whole job only as it is documented."""

from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from perception.commands.generate import batch as generate_batch
from perception.commands.generate.batch import scene_bytes, scenes_together
from perception.commands.main import main
from perception.generation import PRESETS


@pytest.mark.parametrize(
    ("given", "scenes", "together"),
    [
        ({}, 100, 4),
        ({}, 3, 3),
        ({}, 0.5, 1),
        ({"batch_size": 7}, 0.5, 7),
        ({"backbone": "owner/large-model"}, 100, 1),
    ],
)
def test_as_many_as_fit(given, scenes, together, monkeypatch):
    options = PRESETS["exact"]
    monkeypatch.setattr(generate_batch, "_memory", lambda device: int(8 * scenes * scene_bytes(options)) + 8)
    arguments = Namespace(**({"batch_size": None, "device": "cpu", "backbone": "mini"} | given))
    assert scenes_together(arguments, options) == together


def test_larger_scenes_keep_more():
    exact, fast = PRESETS["exact"], PRESETS["fast"]
    assert scene_bytes(exact) == 4 * 320 * 64**2 * 81  # 81 windows of 64 x 64 cells
    assert scene_bytes(fast) <= scene_bytes(exact)


def test_mini_renders_several_and_a_resumed_job_writes_the_same_bytes(tmp_path, monkeypatch, capsys):
    from perception.generation.job import GenerateJob

    (tmp_path / "maps").mkdir()
    for number in range(3):
        labels = np.full((64, 64), 10, np.uint8)
        labels[20 + 5 * number :] = 0
        Image.fromarray(labels).save(tmp_path / "maps" / f"{number}.png")
    batches, real = [], GenerateJob.__call__
    monkeypatch.setattr(GenerateJob, "__call__", lambda job, batch: [batches.append(len(batch)), real(job, batch)][1])

    def run(out):
        command = ["generate", "--labels", tmp_path / "maps", "--control", "mini-control", "--device", "cpu"]
        command += ["--size", "64", "--steps", "1", "--rescale", "1", "--no-progress", "--out", tmp_path / out]
        return main([str(word) for word in command])

    assert run("whole") == 0 and batches == [3]
    assert run("killed") == 0
    (tmp_path / "killed/manifest.jsonl").unlink()  # as a kill before the first commit leaves it
    assert run("killed") == 0 and batches == [3, 3, 3]
    for path in (tmp_path / "whole").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes()
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "at most 4" in " ".join(capsys.readouterr().out.split())
