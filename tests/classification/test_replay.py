"""Rules replayed on recorded errors decide as they do on the denoiser, and the tool prints a line for each."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception.classification.classifier import DiffusionClassifier
from perception.classification.prompts import class_prompts
from perception.classification.replay import Recorded, replay, summarise, whole_grid
from perception.classification.stopping.racing import Racing
from perception.classification.stopping.schedules import Exhaustive, FixedSchedule
from perception.errors import UserError

CLASSES = class_prompts(["cat", "dog", "red car"])


def recorded(errors, classes=None, truth=None, steps=1000):
    (block,) = Exhaustive(errors.shape[1]).blocks(steps)
    return Recorded(errors, tuple(s.timestep for s in block), tuple(classes or range(len(errors))), truth)


@pytest.mark.parametrize("rule", [Racing(20), FixedSchedule((4, 20), (2, 1)), Exhaustive(20)])
def test_a_replay_equals_the_race_itself(tiny_backbone, rule):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    (grid,) = DiffusionClassifier(tiny_backbone, CLASSES, Exhaustive(20)).classify_latents(latents, ["a"])
    (live,) = DiffusionClassifier(tiny_backbone, CLASSES, rule).classify_latents(latents, ["a"])
    played = replay(rule, recorded(grid.table.errors))
    assert (played.class_id, played.evaluations, played.stop) == (live.class_id, live.evaluations, live.stop)
    assert played.table.history == live.table.history
    torch.testing.assert_close(played.table.errors, live.table.errors, rtol=1e-5, atol=0, equal_nan=True)


def test_a_summary_counts_agreement_where_the_grid_is_significant():
    generator = torch.Generator().manual_seed(0)
    images = []
    for number, gap in enumerate((3.0, 3.0, 0.0)):
        errors = torch.randn(2, 250, generator=generator)
        errors[0] += gap
        images.append(recorded(errors, truth=number % 2))
    assert [lead > 1.96 for _, lead in map(whole_grid, images)] == [True, True, False]
    row = summarise(Racing(), images)
    assert (row.agreement, row.evaluations >= 16, row.most <= 500) == (1.0, True, True)
    assert row.accuracy == pytest.approx(sum(whole_grid(image)[0] == image.truth for image in images[:2]) / 3, abs=0.34)


def test_templates_of_one_class_do_not_rival_each_other():
    errors = torch.randn(1, 250, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    errors[2] += 1 + torch.rand(250, generator=torch.Generator().manual_seed(1))
    class_id, lead = whole_grid(recorded(errors, classes=(0, 0, 1)))
    assert class_id == 0
    assert lead > 10
    assert replay(Racing(), recorded(errors, classes=(0, 0, 1))).evaluations == 3 * Racing.first


def test_the_prompts_of_pooled_classes_are_counted():
    image = recorded(torch.randn(2, 20, generator=torch.Generator().manual_seed(0)))
    assert replay(Exhaustive(20), image).evaluations == 2 * 20
    assert replay(Exhaustive(20), replace(image, costs=(3, 1))).evaluations == 4 * 20


def test_what_was_not_recorded_is_refused():
    image = recorded(torch.randn(2, 10))
    with pytest.raises(UserError, match=r"draws timestep .*, which was not recorded; give it the recorded grid of 10"):
        replay(Exhaustive(20), image)
    with pytest.raises(UserError, match="have gaps or repeated timesteps"):
        replay(Exhaustive(10), recorded(torch.full((2, 10), float("nan"))))


def test_the_tool_prints_one_line_per_rule(tiny_sd, tmp_path, capsys):
    import numpy as np
    from PIL import Image

    from perception.commands.main import main

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "0.png")
    out = tmp_path / "grid"
    arguments = ["--method", "exhaustive", "--samples", "20", "--save-errors", "--size", "64", "--no-progress"]
    arguments += ["--backbone", str(tiny_sd), "--device", "cpu", "--out", str(out)]
    assert main(["classify", str(tmp_path / "images"), *arguments]) == 0
    capsys.readouterr()
    path = Path(__file__).parents[2] / "tools" / "replay.py"
    spec = importlib.util.spec_from_file_location("replay_tool", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main([str(out), "--keep", "1,1", "--confidence", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert "fixed 2,20 keep 1,1 " in printed
    lines = printed.splitlines()[2:]
    assert len({len(line) for line in lines}) == 1  # the columns stand below their names
    assert "2 images, 2 classes, 2 prompts, grid of 20" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:]] == ["fixed", "exhaustive", "racing"]
    assert tool.main([str(out), "--stages", "25,250"]) == 2
    assert "replay: the rule fixed draws timestep" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "none")]) == 2
    assert "holds no finished image" in capsys.readouterr().err
