"""The networks that ship with `mini` load by name and fit the weights that ship; the control network controls."""

import json

import pytest
import torch

from perception.backbones import load_backbone
from perception.backbones.shipped import MINI
from perception.data.world import TEST_SEED, render_scene
from perception.generation import CITYSCAPES, ControlledDenoiser, load_control, with_denoiser
from perception.generation.labels import one_hot
from perception.generation.publishing.dataset_card import licence_of
from perception.generation.styles import weights_fingerprint


@pytest.fixture(scope="module")
def mini():
    return load_backbone("mini", device="cpu")


def facts(name):
    return json.loads((MINI.with_name(name) / "training.json").read_text(encoding="utf-8"))


def test_they_were_trained_on_the_mini_that_ships(mini):
    source = with_denoiser(mini, "mini-source")
    assert (
        facts("mini-source")["backbone_fingerprint"]
        == facts("mini-control")["backbone_fingerprint"]
        == mini.fingerprint
    )
    assert facts("mini-control")["base_fingerprint"] == source.fingerprint
    assert facts("mini-source")["weights_fingerprint"] == weights_fingerprint(source.unet.half())
    assert {licence_of(name) for name in ("mini", "mini-source", "mini-control")} == {"Apache-2.0"}


def test_a_scene_is_denoised_better_by_its_own_label_map(mini):
    scenes = [render_scene(TEST_SEED, index) for index in range(4)]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) / 255 for scene in scenes])
    labels = torch.stack([torch.from_numpy(scene.labels).long() for scene in scenes])
    network = ControlledDenoiser(mini, [load_control("mini-control", mini)])
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x_t, condition = mini.noise(mini.encode(images), 700, noise), mini.condition(["a city street."] * 4)
        own, other = (
            (network(x_t, 700, condition, network.embed([one_hot(told, len(CITYSCAPES))])).eps - noise).square().mean()
            for told in (labels, labels.roll(1, 0))
        )
    assert own < 0.9 * other
