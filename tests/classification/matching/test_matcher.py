"""Errors of all captions with all images: equal to the plain computation, and independent of how it is cut."""

import pytest
import torch

from perception.classification.matching.matcher import SHARED, ImageCaptionMatcher
from perception.classification.noise import SeededNoise, SharedNoise
from perception.errors import UserError

CAPTIONS = ["a cat on a dog", "a dog on a cat", ""]


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_equals_the_plain_computation(tiny_backbone, images):
    errors = ImageCaptionMatcher(tiny_backbone, samples=4)(images, CAPTIONS, SeededNoise(5))
    assert errors.shape == (2, 3, 4)
    latents, noise = tiny_backbone.encode(images), SeededNoise(5)
    matcher = ImageCaptionMatcher(tiny_backbone, samples=4)
    for i in range(2):
        for c, caption in enumerate(CAPTIONS):
            for k, sample in enumerate(matcher.samples):
                eps = noise(SHARED, sample, tuple(latents.shape[1:]))[None]
                x_t = tiny_backbone.noise(latents[i : i + 1], sample.timestep, eps)
                with torch.inference_mode():
                    prediction = tiny_backbone.denoise(x_t, sample.timestep, tiny_backbone.condition([caption]))
                expected = (prediction.eps - eps).square().mean()
                assert errors[i, c, k].item() == pytest.approx(expected.item(), rel=1e-5)


def test_rows_and_neighbours_change_nothing(tiny_backbone, images):
    reference = ImageCaptionMatcher(tiny_backbone, samples=65)(images, CAPTIONS[:2])
    for rows in (3, 64):
        errors = ImageCaptionMatcher(tiny_backbone, samples=65, rows=rows)(images[1:], CAPTIONS[:2])
        torch.testing.assert_close(errors[0], reference[1], rtol=1e-5, atol=0)


def test_trials_losses_and_a_noise_file(tiny_backbone, images):
    noise = SharedNoise(torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    errors = [
        ImageCaptionMatcher(tiny_backbone, samples=3, trials=2, loss=loss)(images[:1], CAPTIONS, noise)
        for loss in ("l2", "l1")
    ]
    assert errors[0].shape == (1, 3, 6)
    assert not torch.equal(*errors)


def test_bad_input_gets_one_sentence(tiny_backbone, images):
    with pytest.raises(UserError, match="expected a non-empty list of strings"):
        ImageCaptionMatcher(tiny_backbone, samples=2)(images, [])
    with pytest.raises(UserError, match="errors are not finite"):
        noise = SharedNoise(torch.full((2, 4, 8, 8), float("nan")))
        ImageCaptionMatcher(tiny_backbone, samples=2)(images, CAPTIONS, noise)
