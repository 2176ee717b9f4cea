"""Whether a picture is like those that a backbone was trained on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from perception.backbones import load_backbone
from perception.backbones.own_pictures import FILE, read_own_pictures
from perception.backbones.shipped import MINI, SHIPPED
from perception.backbones.typicality import TypicalityMeter, fit_own_pictures
from perception.data.fashion_mnist import CLASSES
from perception.data.world import DOMAINS, render_object, render_scene
from perception.errors import UserError

HELD_OUT = 9  # a stream of the world that neither training nor quantiles have seen


@pytest.fixture(scope="module")
def mini():
    meter = TypicalityMeter.of(load_backbone("mini", device="cpu"))
    assert meter is not None
    return meter


def judged(meter, pictures):
    return [meter(meter.pixels(Image.fromarray(pixels))) for pixels in pictures]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_backbones_know_their_own_pictures(name):
    """Fails when weights were exported and the quantiles not made anew (`--stages typicality`)."""
    own = load_backbone(name, device="cpu").own_pictures
    assert own is not None and own.size == ((128, 128) if name == "mini" else (28, 28))


def test_photographs_and_noise_are_unlike_the_miniature_world(mini):
    photos = load_sample_images().images
    crops = [photo[top : top + 400, left : left + 400] for photo in photos for top, left in ((0, 0), (20, 200))]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for found in judged(mini, [*photos, *crops, noise]):
        assert found.unlike and found.share < 0.01
        assert found.record() == {"typicality": round(found.share, 4), "unlike": True}


def test_held_out_pictures_of_the_world_are_like_it(mini):
    scenes = [render_scene(HELD_OUT, index, domain).image for index, domain in enumerate(DOMAINS * 2)]
    objects = [render_object(HELD_OUT, index).image for index in range(12)]
    large = [render_object(HELD_OUT, index, None, 256).image for index in range(12, 18)]
    found = judged(mini, [*scenes, *objects, *large])
    assert sum(one.unlike for one in found) <= 1
    assert 0.3 < np.mean([one.share for one in found]) < 0.7  # as shares of own pictures are


def test_a_picture_without_contrast_is_unlike_any(mini):
    for value in (0, 128, 255):
        (found,) = judged(mini, [np.full((40, 60, 3), value, np.uint8)])
        assert found.unlike


def test_the_size_of_a_file_matters_little_and_the_backbone_stays_as_it_is(mini):
    image = Image.fromarray(load_sample_images().images[0])
    first = mini(mini.pixels(image))
    assert first == mini(mini.pixels(image)) and mini(mini.pixels(image.resize((1000, 700)))).unlike


def test_photographs_are_unlike_the_clothes_of_mini_dit():
    meter = TypicalityMeter.of(load_backbone("mini-dit", device="cpu"))
    assert meter is not None and len(CLASSES) == 10
    assert all(found.unlike for found in judged(meter, load_sample_images().images))


@pytest.fixture(scope="module")
def own_folder(tiny_sd, tmp_path_factory):
    """A copy of the tiny backbone that knows its own pictures: smooth ones."""
    folder = shutil.copytree(tiny_sd, tmp_path_factory.mktemp("own") / "model")
    backbone, random = load_backbone(folder, device="cpu"), np.random.default_rng(0)
    small = (Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(120))
    smooth = [picture.resize((64, 64), Image.Resampling.BICUBIC) for picture in small]
    fit_own_pictures(backbone, smooth, "120 smooth pictures", (64, 64)).write(folder)
    with pytest.raises(UserError, match="3 pictures are too few to tell what is typical"):
        fit_own_pictures(backbone, smooth[:3], "3", (64, 64))
    return folder


def test_any_backbone_may_know_its_own_pictures(own_folder, tiny_sd):
    assert load_backbone(tiny_sd, device="cpu").own_pictures is None
    backbone = load_backbone(own_folder, device="cpu")
    own, meter = backbone.own_pictures, TypicalityMeter.of(backbone)
    assert own is not None and own.pictures == "120 smooth pictures" and meter is not None
    assert [own.share(place) for _, place in own.quantiles] == pytest.approx([share for share, _ in own.quantiles])
    assert own.share(-1e9) == 1 and own.share(1e9) == 0
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64))
    assert not meter(meter.pixels(smooth)).unlike


def test_quantiles_count_for_the_weights_that_they_were_made_with(own_folder, tmp_path, edit):
    changed = shutil.copytree(own_folder, tmp_path / "changed")
    edit(changed / "scheduler" / "scheduler_config.json", beta_end=0.013)
    assert load_backbone(changed, device="cpu").own_pictures is None
    assert load_backbone(own_folder, device="cpu", random_init_seed=0).own_pictures is None
    assert load_backbone(own_folder, device="cpu", dtype="bfloat16").own_pictures is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"usual": [[1.0]]},
        {"scatter": [0.0, 0.0]},
        {"scatter": ["a", None]},
        {"timesteps": []},
        {"timesteps": [50, "400"]},
        {"timesteps": "ab"},
        {"size": [64]},
        {"size": [64, 10**9]},
        {"size": None},
        {"spreads": []},
        {"spreads": [[1.0, 0.0, 1.0]] * 4},
        {"spreads": [[0.0, 1.0, 0.0]] * 4},
        {"quantiles": []},
        {"quantiles": [[0.1, 0.0], [0.9, 1.0]]},
        {"quantiles": {"a": 1}},
        {"pictures": 5},
    ],
)
def test_a_damaged_file_is_one_sentence(own_folder, tmp_path, changes):
    found = json.loads((own_folder / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(found | changes))
    with pytest.raises(UserError, match=r"typicality.json cannot be used \(.*\); delete it, or copy it again"):
        read_own_pictures(tmp_path, found["identity"])


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"identity": 5}', "\0", "null"])
def test_a_file_of_something_else_is_one_sentence_or_nothing(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    try:
        assert read_own_pictures(tmp_path, "of other weights") is None
    except UserError as error:
        assert "cannot be used" in str(error)


def test_measuring_leaves_no_trace_in_answers(mini):
    backbone, condition = mini.backbone, mini.backbone.condition(["a photo of a cat."])
    latents = torch.zeros(1, 4, 16, 16)
    before = backbone.denoise(latents, 50, condition).eps
    mini(mini.pixels(Image.new("RGB", (64, 64), (200, 10, 10))))
    assert torch.equal(before, backbone.denoise(latents, 50, condition).eps) and MINI.is_dir()
