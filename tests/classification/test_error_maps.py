"""Error maps: their mean is the classifier's error, their picture shows who wins where."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from perception.classification.classifier import DiffusionClassifier
from perception.classification.error_maps import ErrorMaps, overlay_map, overlay_png
from perception.classification.prompts import class_prompts
from perception.classification.stopping.schedules import Exhaustive
from perception.errors import UserError


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))


def test_the_mean_of_a_map_is_the_error(tiny_backbone, image):
    prompts = class_prompts(["cat", "dog", "cow"])
    (result,) = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(5))(image, ["x"])
    latent = tiny_backbone.encode(image)[0]
    condition = tiny_backbone.condition(prompts.prompts)
    maps = ErrorMaps(tiny_backbone, samples=5)(latent, condition, "x")
    assert maps.shape == (3, 8, 10)
    assert maps.mean((1, 2)).tolist() == pytest.approx(list(result.errors), rel=1e-5)
    again = ErrorMaps(tiny_backbone, samples=5, rows=2)(latent, condition, "x")
    torch.testing.assert_close(again, maps, rtol=1e-5, atol=1e-6)
    prompts = class_prompts(["cat", "dog"])
    (result,) = DiffusionClassifier(tiny_backbone, prompts, Exhaustive(3), "l1")(image, ["x"])
    maps = ErrorMaps(tiny_backbone, samples=3, loss="l1")(latent, tiny_backbone.condition(prompts.prompts), "x")
    assert maps.mean((1, 2)).tolist() == pytest.approx(list(result.errors), rel=1e-5)
    with pytest.raises(UserError, match="error maps are not made of the loss 'l3'"):
        ErrorMaps(tiny_backbone, loss="l3")
    with pytest.raises(UserError, match="0 rows per denoiser call"):
        ErrorMaps(tiny_backbone, rows=0)


def test_the_picture_is_red_where_the_candidate_is_better():
    maps = torch.zeros(2, 4, 4)
    maps[1, :, 2:] = 1  # the other candidate is worse on the right
    maps[1, :, 0] = -1  # and better at the left edge
    difference = maps[1] - maps[0]
    pixels = np.full((32, 32, 3), 128, np.uint8)
    picture = overlay_map(pixels, difference).astype(int)
    assert picture[16, 30, 0] - picture[16, 30, 2] > 60  # red
    assert picture[16, 1, 2] - picture[16, 1, 0] > 60  # blue
    assert np.ptp(overlay_map(pixels, torch.zeros(4, 4))[16, 16].astype(int)) == 0
    content = overlay_png(torch.full((3, 32, 32), 0.5), difference)
    assert Image.open(io.BytesIO(content)).size == (32, 32)
