"""The depth predictor: any image, any size."""

import numpy as np
import pytest
import torch
from PIL import Image

from perception.depth.net import DepthNet
from perception.depth.predictor import DepthPredictor
from perception.errors import UserError


@pytest.fixture(scope="module")
def network(tiny_sd):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthNet(str(tiny_sd), fusion_channels=32, num_filters=(8, 8, 8), decoder_channels=8).eval()


def picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def test_depth_at_the_size_of_the_image_is_the_network_s(network):
    image = picture(70, 90)
    with torch.no_grad():
        wanted = network(tensor(image), [3])[0, 0].numpy()
    found = DepthPredictor(network)(image, 3)
    assert found.dtype == np.float32 and np.array_equal(found, wanted)
    assert np.array_equal(DepthPredictor(network)(image), DepthPredictor(network)(image, -1))  # no room: the mean


def test_another_size_is_resized_back(network):
    assert DepthPredictor(network, (64, 64))(picture(70, 90)).shape == (70, 90)
    assert DepthPredictor(network)(picture(70, 90).convert("L")).shape == (70, 90)


def test_the_shorter_side_is_that_of_the_training(network, monkeypatch):
    assert DepthPredictor(network).seen_size(picture(70, 90)) == (70, 90)
    monkeypatch.setattr(network, "image_size", (96, 64))
    predictor = DepthPredictor(network)
    assert predictor.seen_size(picture(70, 140)) == (64, 128) and predictor.seen_size(picture(140, 70)) == (128, 64)
    assert predictor(picture(70, 140)).shape == (70, 140)
    assert DepthPredictor(network, (32, 48)).seen_size(picture(70, 140)) == (32, 48)


def test_flip_is_the_mean_with_the_mirror_image(network):
    image = picture(64, 64)
    plain = DepthPredictor(network)
    mirrored = plain(image.transpose(Image.FLIP_LEFT_RIGHT))[:, ::-1]
    flipped = DepthPredictor(network, flip=True)(image)
    assert np.abs(flipped - (plain(image) + mirrored) / 2).max() < 1e-5
    assert np.abs(DepthPredictor(network, flip=True, windows=1)(image) - flipped).max() < 1e-4


def test_bad_numbers(network):
    with pytest.raises(UserError, match="size 4x64 is too small"):
        DepthPredictor(network, (4, 64))
    with pytest.raises(UserError, match="windows is -1; expected 0"):
        DepthPredictor(network, windows=-1)
