"""Detail of a photo in a generated image."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.backbones import DiffusionBackbone
from perception.errors import UserError
from perception.generation import SceneGenerator, ScenePlanner
from perception.generation.detail import transfer_detail


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_haze_and_tints_are_carried_over_whole() -> None:
    photo, coded = _noise(0, 2, 3, 20, 24), _noise(1, 2, 3, 20, 24)
    mixing = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.4, 0.05], [0.1, 0.0, 0.2]])

    def haze(image: Tensor) -> Tensor:
        return torch.einsum("oi,bihw->bohw", mixing, image) + 0.3

    found = transfer_detail(haze(coded), photo, coded, radius=3, ridge=1e-6)
    assert torch.allclose(found, haze(photo), atol=1e-3)


def test_a_window_is_a_ridge_regression() -> None:
    generated, photo, coded = (_noise(seed, 1, 3, 7, 7) for seed in (0, 1, 2))
    found = transfer_detail(generated, photo, coded, radius=6, ridge=0.02)  # every window is the whole picture
    x, y = (image[0].flatten(1).T.double() for image in (coded, generated))  # [49, 3]
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    prior = ((y_centred.square().mean() + 1e-4) / (x_centred.square().mean() + 1e-4)).sqrt()
    ridge = 0.02 * torch.eye(3, dtype=torch.double)
    slope = torch.linalg.solve(x_centred.T @ x_centred / 49 + ridge, x_centred.T @ y_centred / 49 + prior * ridge)
    expected = (photo[0].flatten(1).T.double() - x.mean(0)) @ slope + y.mean(0)
    assert torch.allclose(found[0].flatten(1).T.double(), expected.clamp(0, 1), atol=1e-6)


def test_what_was_not_drawn_keeps_the_contrast_around_it() -> None:
    """A pole that the autoencoder loses, in a scene generated at half the contrast."""
    coded = torch.full((1, 3, 32, 32), 0.6)
    coded[..., 16:, :] = 0.2
    photo = coded.clone()
    photo[..., 2:12, 15] = 0.1
    found = transfer_detail(coded / 2, photo, coded, radius=2)
    assert torch.allclose(found[..., 5, 10] - found[..., 5, 15], torch.tensor(0.25), atol=0.02)
    flat = torch.full_like(coded, 0.2)
    assert torch.allclose(transfer_detail(flat, coded, coded, radius=2), flat, atol=0.03)


def test_scenes_with_a_photo(tiny_backbone: DiffusionBackbone, control: nn.Module, small, street: np.ndarray) -> None:
    generator = SceneGenerator(tiny_backbone, [control], small(rescale=1.0), resize=[1.5])
    photo = np.random.default_rng(0).integers(0, 256, (*street.shape, 3), dtype=np.uint8)
    plain, scene = (generator.composer(street, label=13, seed=0, sample_id="a", photo=given) for given in (None, photo))
    assert scene.photo is not None and scene.photo.shape == (64, 96, 3) and np.array_equal(plain.labels, scene.labels)
    (made,) = generator([scene])
    assert np.asarray(made.image).shape == (64, 96, 3)
    assert np.array_equal(np.asarray(made.base), np.asarray(generator([plain])[0].image))
    assert not np.array_equal(np.asarray(made.image), np.asarray(made.base))
    planner = ScenePlanner(generator.denoiser, generator.options)
    assert planner(scene).autoencoder_flops > planner(plain).autoencoder_flops
    with pytest.raises(UserError, match="the photo of a label map is 112 x 70 pixels, the map 112 x 80"):
        generator.composer(street, seed=0, sample_id="a", photo=photo[:70])
