"""Image geometry; the exact pixel values are bound by tests/parity/test_diffusion_classifier.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from perception.classification.transforms import AdmTransform, ClassifierTransform, square_transform
from perception.data.images import image_tensor
from perception.errors import UserError


def _image(height, width, mode="RGB"):
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA", "1", "CMYK"])
@pytest.mark.parametrize("shape", [(50, 31), (31, 50), (8, 9), (200, 200)])
def test_any_mode_and_shape_becomes_a_square(mode, shape):
    out = ClassifierTransform(32)(_image(*shape, mode))
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.float32
    assert 0 <= out.min() <= out.max() <= 1


@pytest.mark.parametrize("shape", [(50, 31), (31, 50), (8, 9), (32, 24)])
def test_other_aspect_ratios_and_the_same_geometry_as_image_tensor(shape):
    image = _image(*shape)
    for size in ((32, 24), (24, 32), (32, 32)):
        assert torch.equal(ClassifierTransform(size)(image), image_tensor(image, size))


def test_palette_images_are_resized_with_nearest_unless_converted_first():
    image = _image(60, 60, "P")
    palette = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    late, early = (ClassifierTransform(25, convert_first=first)(image) for first in (False, True))
    assert {tuple(color) for color in (late * 255).round().byte().flatten(1).T.tolist()} <= palette
    assert not torch.equal(late, early)
    assert torch.equal(early, ClassifierTransform(25)(image.convert("RGB")))


def test_border_is_cut_before_the_resize():
    image = _image(44, 44)
    assert torch.equal(ClassifierTransform(32, border=2)(image), ClassifierTransform(32)(image.crop((2, 2, 42, 42))))


def test_bad_options_get_one_sentence():
    with pytest.raises(UserError, match="unknown interpolation 'cubic'; choose one of bicubic, bilinear, lanczos"):
        ClassifierTransform(interpolation="cubic")
    with pytest.raises(UserError, match="give a size >= 1"):
        ClassifierTransform(0)
    with pytest.raises(UserError, match="leaves nothing of a 9 x 8 image"):
        ClassifierTransform(8, border=4)(_image(8, 9))


@pytest.mark.parametrize("shape", [(50, 31), (31, 50), (9, 8), (200, 133), (64, 64)])
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_the_crop_of_dit_gives_a_square_of_any_image(shape, mode):
    out = AdmTransform(32)(_image(*shape, mode))
    assert out.shape == (3, 32, 32)
    assert 0 <= out.min() <= out.max() <= 1


def test_the_crop_of_dit_halves_with_a_box_filter():
    image = _image(64, 64)
    halved = np.asarray(image, dtype=np.float64).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(255 * AdmTransform(32)(image).permute(1, 2, 0).numpy() - halved).max() <= 0.5
    with pytest.raises(UserError, match="give a size >= 1"):
        AdmTransform(0)


def test_the_crop_is_chosen_by_name():
    image = _image(44, 50)
    assert torch.equal(square_transform("adm", (32, 32), border=2)(image), AdmTransform(32)(image.crop((2, 2, 48, 42))))
    assert torch.equal(square_transform("resize", (32, 24))(image), ClassifierTransform((32, 24))(image))
    with pytest.raises(UserError, match="unknown crop 'five'; choose one of resize, adm"):
        square_transform("five", (32, 32))
    for size, interpolation in (((32, 24), "bicubic"), ((32, 32), "lanczos")):
        with pytest.raises(UserError, match="the crop 'adm' makes squares with filters of its own"):
            square_transform("adm", size, interpolation)
    with pytest.raises(UserError, match="leaves nothing of a 9 x 8 image"):
        AdmTransform(8, border=4)(_image(8, 9))
