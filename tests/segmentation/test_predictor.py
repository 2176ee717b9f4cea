"""Predictors of segmentation: any image, any size, the same answer in any order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from perception.errors import UserError
from perception.segmentation import predictor as module
from perception.segmentation.predictor import ReferringPredictor, SemanticPredictor, largest
from perception.segmentation.referring import ReferringNet


class Bright(nn.Module):
    """Class 1 where an image is bright; notes what it was given."""

    classes, image_size, tested_side = ["dark", "bright"], None, None

    def forward(self, images):
        self.seen = tuple(images.shape)
        grey = images.mean(dim=1, keepdim=True)
        return torch.cat([1 - grey, grey], dim=1)


def picture(height=50, width=90, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def network(tiny_sd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ReferringNet(str(tiny_sd), length=12, hidden=8).eval()


def test_labels_have_the_size_of_the_image():
    halves = Image.new("RGB", (100, 70))
    halves.paste((255, 255, 255), (50, 0, 100, 70))
    network = Bright()
    result = SemanticPredictor(network)(halves)
    assert network.seen == (1, 3, 64, 128)  # the nearest multiples of 64
    assert result.labels.shape == (70, 100) and result.labels.dtype == np.uint8
    assert result.areas == pytest.approx({"dark": 0.5, "bright": 0.5}, abs=0.02)
    assert (result.labels[:, 52:] == 1).all() and (result.labels[:, :48] == 0).all()
    assert SemanticPredictor(network)(halves.convert("L")).areas == result.areas


def test_size_of_the_option_of_the_model_of_the_image():
    network = Bright()
    network.image_size = (128, 64)
    SemanticPredictor(network)(picture())
    assert network.seen[2:] == (128, 64)
    SemanticPredictor(network, (64, 192))(picture())
    assert network.seen[2:] == (64, 192)
    with pytest.raises(UserError, match=r"size 100x64 does not fit: .*; try 128x64"):
        SemanticPredictor(network, (100, 64))


def test_sliding_networks_see_pictures_as_large_as_in_their_tests():
    network = Bright()
    network.tested_side = 128
    SemanticPredictor(network)(picture(300, 400))
    assert network.seen[2:] == (128, 192)  # 128 x 171 to the nearest multiples of 64
    SemanticPredictor(network)(picture(50, 30))
    assert network.seen[2:] == (192, 128)
    SemanticPredictor(network, (64, 192))(picture(300, 400))
    assert network.seen[2:] == (64, 192)


def test_attention_maps_are_of_the_same_picture(make_vpd):
    network, vpd = Bright(), make_vpd()
    network.tested_side, network.classes = 64, ["cat", "traffic light", "sky"]
    assert vpd.strides[1] in vpd.map_layers  # the finest with maps: cells of 16 pixels
    maps = SemanticPredictor(network, vpd=vpd).maps(picture(300, 600))
    assert maps["sky"].shape == (4, 8)


def test_argmax_in_parts_is_the_argmax(monkeypatch):
    logits = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(0))
    whole = largest(logits, (30, 40))
    monkeypatch.setattr(module, "_MOST_VALUES", 2 * 30 * 40)  # two classes at a time
    assert np.array_equal(largest(logits, (30, 40)), whole)
    full = nn.functional.interpolate(logits[None], (30, 40), mode="bilinear")[0].argmax(0)
    assert np.array_equal(whole, full)


def test_overflowing_logits_are_no_answer():
    class Overflow(Bright):
        def forward(self, images):
            return super().forward(images) * torch.inf

    (area,) = SemanticPredictor(Overflow())(picture()).areas.values()
    assert np.isnan(area)


def test_too_many_classes_for_a_label_picture():
    with pytest.raises(UserError, match="the model has 256 classes; a label picture holds at most 255"):
        SemanticPredictor(SimpleNamespace(classes=list(map(str, range(256))), image_size=None))


def test_sentences_of_one_image_are_those_of_single_calls(network):
    image, texts = picture(), ["the red car", "sky", "a man on the left"]
    together = ReferringPredictor(network)(image, texts)
    halved = ReferringPredictor(network, rows=2)(image, texts)
    for result, other, text in zip(together, halved, texts, strict=True):
        (alone,) = ReferringPredictor(network)(image, [text])
        assert result.text == text and result.mask.shape == (50, 90) and result.mask.dtype == bool
        assert (result.mask != alone.mask).mean() < 1e-3 and (result.mask != other.mask).mean() < 1e-3
        assert result.area == result.mask.mean()
        assert result.score is None or 0.5 < result.score <= 1


def test_masks_at_the_size_of_the_network_are_those_of_its_forward(network):
    image = picture(64, 128)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        margin = network(pixels, ["the red car"]).diff(dim=1)[0, 0]
    (found,) = ReferringPredictor(network)(image, ["the red car"])
    clear = margin.abs().numpy() > 1e-4
    assert np.array_equal(found.mask[clear], margin.numpy()[clear] > 0)
    if found.mask.any():
        assert found.score == pytest.approx(float(margin[margin > 0].sigmoid().mean()), abs=1e-4)


def test_a_control_without_a_diffusion_model_takes_the_same_call(tiny_sd):
    control = ReferringNet(str(tiny_sd), length=12, hidden=8, encoder="resnet18").eval()
    predictor = ReferringPredictor(control)
    assert [found.mask.shape for found in predictor(picture(), ["a", "b"])] == [(50, 90)] * 2
    with pytest.raises(UserError, match="reads no attention maps"):
        predictor.maps(picture(), "a")


def test_bad_sentences(network):
    predictor = ReferringPredictor(network)
    with pytest.raises(UserError, match="a sentence is empty"):
        predictor.check(["a", " "])
    with pytest.raises(UserError, match="tokens and 12 fit"):
        predictor(picture(), ["one two three four five six seven eight nine ten eleven twelve"])
