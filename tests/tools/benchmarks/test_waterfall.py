"""The waterfall of the classifier on a tiny backbone: the same images in four ways, in bfloat16, and compiled."""

import pytest
import torch
from benchmarks.waterfall import set_pictures, waterfall, world_objects
from PIL import Image

from perception.backbones import load_backbone
from perception.classification import class_prompts
from perception.classification.stopping.racing import Racing


def test_steps_count_what_they_evaluate(tiny_backbone, tiny_sd, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = class_prompts(["cat", "dog", "red car"])
    reduced = load_backbone(tiny_sd, dtype="bfloat16", device="cpu")
    schedule = {"stages": (2, 3, 8), "keep": (3, 2, 1)}
    steps = list(waterfall(tiny_backbone, images, [0], prompts, **schedule, reduced=reduced, compile=True))
    evaluations = [step.evaluations for step in steps]
    assert evaluations[0] == 3 * 2 + 3 * 3 + 2 * 3  # the grids of 2 and 3 of 8 do not nest
    assert evaluations[1] == 3 * 3 + 2 * 5
    assert 3 * Racing.first <= evaluations[2] <= 3 * 8
    assert evaluations[2] == evaluations[3]  # the same race
    assert steps[0].calls == 3 and steps[2].calls <= evaluations[2] / 3
    assert all(step.of_plain > 0 for step in steps)
    assert steps[4].name == "+ bfloat16" and 3 * Racing.first <= evaluations[4] <= 3 * 8
    assert steps[5].gflop > steps[4].gflop and evaluations[5] == evaluations[4]  # calls are filled up
    assert steps[5].calls == steps[4].calls
    assert all(f"{step.evaluations:.1f}" in step.render() for step in steps)


def test_pictures_of_a_set_come_with_their_classes(tmp_path):
    for value, name in enumerate(("cat", "red_car")):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 30), (100 * value, 0, 0)).save(tmp_path / name / f"{number}.png")
    images, truth, prompts = set_pictures("folder", tmp_path, 3, 28, class_conditional=False)
    assert (images.shape, truth) == ((3, 3, 28, 28), [0, 0, 1])
    assert [images[i, 0].max().item() for i in (0, 2)] == pytest.approx([0, 100 / 255])
    assert prompts.prompts == ("a photo of a cat.", "a photo of a red car.")
    assert set_pictures("folder", tmp_path, 9, 28, class_conditional=True)[2].prompts == ("cat", "red car")


def test_objects_come_with_their_classes():
    images, truth, prompts = world_objects(12, 64)
    assert images.shape == (12, 3, 64, 64)
    assert (images.min() >= 0, images.max() <= 1) == (True, True)
    assert truth[10:] == [0, 1]
    assert prompts.prompts[truth[11]] == "a photo of a bus."
