"""Every kind of image file that people have, and every kind that is broken."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from perception.data.images import content_hash, image_tensor, nearest_size, read_image
from perception.errors import UserError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def noise(height=20, width=30, channels=3):
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze())


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path):
    image = noise()
    assert np.array_equal(read_image(saved(tmp_path / "a.png", image)), image)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "LAB", "RGBA", "LA", "P", "RGBX"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new("RGB", (16, 12), (255, 255, 255)).convert("L" if mode == "LA" else "RGB").convert(mode)
    read = read_image(saved(tmp_path / "a.tiff", image))
    assert read.mode == "RGB" and read.size == (16, 12)
    assert np.asarray(read).min() >= 254


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    values = np.linspace(0, 65535, 16 * 12).astype(np.uint16).reshape(12, 16)
    read = np.asarray(read_image(saved(tmp_path / "a.png", Image.fromarray(values))))
    assert np.array_equal(read[..., 0], np.round(values / 257).astype(np.uint8))
    assert np.array_equal(read[..., 0], read[..., 2])


def test_16_bit_colour_is_scaled_to_8_bits(tmp_path):
    path = tmp_path / "a.ppm"  # 16-bit PPM: big-endian samples
    path.write_bytes(b"P6 8 8 65535\n" + np.full((8, 8, 3), 65535, ">u2").tobytes())
    assert np.asarray(read_image(path)).min() == 255


def test_alpha_is_composited_on_white(tmp_path):
    image = Image.new("RGBA", (10, 10), (*RED, 0))
    image.paste((*GREEN, 255), (0, 0, 10, 5))
    image.paste((*RED, 51), (0, 5, 10, 6))  # 20 % red on white
    read = read_image(saved(tmp_path / "a.png", image))
    assert [read.getpixel((0, y)) for y in (0, 5, 9)] == [GREEN, (255, 204, 204), (255, 255, 255)]


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (10, 10), 1)
    image.putpalette([*RED, *GREEN])
    read = read_image(saved(tmp_path / "a.gif", image, transparency=1))
    assert read.getpixel((5, 5)) == (255, 255, 255)


def test_orientation_of_exif_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), RED)
    image.paste(GREEN, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: turn 90 degrees clockwise to see it upright
    read = read_image(saved(tmp_path / "a.png", image, exif=exif))
    assert read.size == (10, 20)
    assert read.getpixel((5, 2)) == GREEN and read.getpixel((5, 17)) == RED


@pytest.mark.parametrize("odd", [(0x011A, 2, 4, b"abc\0"), (0x0100, 2, 4, b"12a\0")], ids=["resolution", "width"])
def test_an_odd_entry_of_exif_does_not_matter(tmp_path, odd):
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), odd]  # tag, type, count, value: texts where numbers belong
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    assert read_image(saved(tmp_path / "a.jpg", noise(20, 30), exif=exif)).size == (20, 30)


@pytest.mark.parametrize("error", [RuntimeError, struct.error, TypeError])
def test_whatever_a_decoder_raises_is_one_sentence(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error("Failed to decode image")

    path = saved(tmp_path / "a.png", noise())
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"a\.png is corrupt or truncated \(Failed to decode image\); replace the file"):
        read_image(path)


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    return buffer.getvalue()


def broken_png() -> bytes:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[60:100] = bytes(40)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, I am a text file", "is not an image that Pillow can read"),
        (jpeg_bytes()[:700], r"is corrupt or truncated \("),
        (jpeg_bytes()[:10], "is not an image|is corrupt or truncated"),
        (broken_png(), r"is corrupt or truncated \("),
    ],
    ids=["empty", "text", "truncated", "header only", "corrupt"],
)
def test_broken_files_are_one_sentence_with_their_name(tmp_path, content, sentence):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.jpg {sentence}"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_images_without_one_latent_cell_are_refused(tmp_path, size):
    with pytest.raises(UserError, match=rf"is {size[0]} x {size[1]} pixels; at least 8 x 8 are needed"):
        read_image(saved(tmp_path / "a.png", Image.new("RGB", size)))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a folder; an image file was expected"):
        read_image(tmp_path)


def test_an_unreadable_file_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path / "a.png", noise())
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(Permission denied\); check its permissions"):
        read_image(path)


def test_floats_and_huge_integers_are_refused(tmp_path):
    with pytest.raises(UserError, match="32-bit floats of unknown range"):
        read_image(saved(tmp_path / "a.tiff", Image.new("F", (8, 8))))
    with pytest.raises(UserError, match=r"integers outside 0\.\.65535"):
        read_image(saved(tmp_path / "b.tiff", Image.new("I", (8, 8), 70000)))


def test_a_pixel_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too many pixels"):
        read_image(path)


@pytest.mark.parametrize("shape", [(61, 97), (97, 61), (40, 40), (33, 200)])
@pytest.mark.parametrize("size", [16, 40, 64])
def test_crop_equals_torchvision_resize_and_centre_crop(shape, size):
    image = noise(*shape)
    expected = tv.center_crop(tv.resize(image, [size], InterpolationMode.BICUBIC), [size, size])
    assert torch.equal(image_tensor(image, size), tv.to_tensor(expected))


def test_crop_to_a_rectangle_keeps_the_aspect_ratio_and_squash_does_not():
    image = Image.new("RGB", (100, 50), RED)
    image.paste(GREEN, (0, 0, 20, 50))
    assert image_tensor(image, (32, 32))[0].mean() == 1  # the green fifth is cut off
    squashed = image_tensor(image, (32, 32), fit="squash", interpolation="nearest")
    assert squashed.shape == (3, 32, 32) and squashed[1].mean() == 6 / 32
    assert image_tensor(image, (16, 48)).shape == (3, 16, 48)
    assert image_tensor(image).shape == (3, 50, 100)


def test_the_hash_depends_on_dtype_shape_and_content():
    array = np.arange(6, dtype=np.uint8)
    same = {
        content_hash(array),
        content_hash(torch.from_numpy(array)),
        content_hash(np.arange(12, dtype=np.uint8)[::2] // 2),
    }
    others = {content_hash(array.reshape(2, 3)), content_hash(array.astype(np.int8)), content_hash(array + 1)}
    assert len(same) == 1 and len(others) == 3 and not same & others
    assert len(content_hash(torch.ones((), dtype=torch.bfloat16))) == 64
    assert content_hash(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_nearest_size_is_a_multiple_of_64_and_never_zero():
    assert nearest_size(375, 1242) == (384, 1216) and nearest_size(8, 100) == (64, 128)
    assert nearest_size(30, 50, multiple=8) == (32, 48)


def test_a_strip_is_not_scaled_beyond_what_can_be_held():
    strip = Image.new("RGB", (40000, 8))
    with pytest.raises(
        UserError, match=r"40000 x 8 pixels, scaled to cover 512 x 512, would have 2560000 x 512; cut it"
    ):
        image_tensor(strip, 512)
    assert image_tensor(strip, 512, fit="squash").shape == (3, 512, 512)
