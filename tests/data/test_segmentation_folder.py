"""Folders of images and label maps: the index and its error sentences."""

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from perception.data.pictures import colour_labels, overlay_labels
from perception.data.segmentation_folder import check_labels, labelled_images, read_labels
from perception.errors import UserError


def _write(root, split, stem, size=(16, 12), labels=0):
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / "images" / split / f"{stem}.jpg")
    Image.new("L", size, labels).save(root / "annotations" / split / f"{stem}.png")


def test_pairs_are_sorted(tmp_path):
    for stem in ("b", "a", "c"):
        _write(tmp_path, "train", stem)
    assert [pair.stem for pair in labelled_images(tmp_path, "train")] == ["a", "b", "c"]


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist; download the data set or name its folder with --data-root"):
        labelled_images(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="has no folder 'images'"):
        labelled_images(tmp_path, "train")
    _write(tmp_path, "train", "a")
    with pytest.raises(UserError, match="has no split 'val'; there are: train"):
        labelled_images(tmp_path, "val")


@pytest.mark.parametrize(
    ("kind", "suffix", "what"), [("images", ".jpg", "image"), ("annotations", ".png", "label map")]
)
def test_files_without_partner(tmp_path, kind, suffix, what):
    for stem in ("a", "b"):
        _write(tmp_path, "train", stem)
    (tmp_path / kind / "train" / f"b{suffix}").unlink()
    with pytest.raises(UserError, match=f"has no {what} for 1 stem.*: b; add or remove"):
        labelled_images(tmp_path, "train")


def test_two_images_of_one_stem(tmp_path):
    _write(tmp_path, "train", "a")
    Image.new("RGB", (16, 12)).save(tmp_path / "images" / "train" / "a.png")
    with pytest.raises(UserError, match=r"images/train has a\.jpg and a\.png of one stem; keep one of the two"):
        labelled_images(tmp_path, "train")


def test_label_maps(tmp_path):
    palette = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8)).convert("P")
    palette.putpalette([0] * 768)
    palette.putdata([0, 3, 255, 1])
    palette.save(tmp_path / "ids.png")
    assert read_labels(tmp_path / "ids.png").tolist() == [[0, 3], [255, 1]]
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    with pytest.raises(UserError, match=r"mode RGB and shape .* expected one 8-bit class id per pixel"):
        read_labels(tmp_path / "colours.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / "torn.png")
    with pytest.raises(UserError, match="does not exist"):
        read_labels(tmp_path / "none.png")


@pytest.mark.parametrize("error", [Image.DecompressionBombError, ValueError, TypeError, EOFError])
def test_damaged_label_maps_are_one_sentence(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error("broken chunk")

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"a.png cannot be read \(broken chunk\); replace the file"):
        read_labels(tmp_path / "a.png")


def _grey_png(bits, ids):
    """The bytes of a PNG of one row with `bits` of grey per pixel."""
    packed = int("".join(f"{value:0{bits}b}" for value in ids).ljust(8, "0"), 2)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", len(ids), 1, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes((0, packed)))),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[0, 1.5]], np.float32), r"float32 values such as 1\.5"),
        (np.array([[0, np.nan]], np.float32), "float32 values such as nan"),
        (np.array([[0, -1]], np.int32), "int32 values such as -1"),
        (np.array([[0, 256, 65535]], np.uint16), "uint16 values such as 256, 65535"),
    ],
)
def test_values_that_are_no_class_ids_are_refused(tmp_path, values, shown):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif holds {shown}; every pixel must be a whole class id from 0 to 254"):
        read_labels(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16, np.uint8])
def test_exact_class_ids_pass_whatever_their_type(tmp_path, dtype):
    Image.fromarray(np.array([[0, 18, 255]], dtype)).save(tmp_path / "a.tif")
    labels = read_labels(tmp_path / "a.tif")
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 18, 255]]


def test_signed_bytes_are_not_taken_for_255(tmp_path):
    signed = TiffImagePlugin.ImageFileDirectory_v2()
    signed[ExifTags.Base.SampleFormat] = 2
    for name, last in (("bad.tif", 255), ("good.tif", 127)):  # -1 as a byte
        Image.fromarray(np.array([[0, last]], np.uint8)).save(tmp_path / name, tiffinfo=signed)
    with pytest.raises(UserError, match=r"bad\.tif holds int8 values such as -1"):
        read_labels(tmp_path / "bad.tif")
    assert read_labels(tmp_path / "good.tif").tolist() == [[0, 127]]


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_that_pillow_would_scale_are_refused(tmp_path, bits):
    (tmp_path / "a.png").write_bytes(_grey_png(bits, [0, 1]))
    with pytest.raises(UserError, match=rf"a\.png has {bits} bits of grey per pixel; save it with 8 bits"):
        read_labels(tmp_path / "a.png")


def test_a_lossy_label_map_is_refused(tmp_path):
    Image.new("L", (16, 16)).save(tmp_path / "a.png", "JPEG")
    with pytest.raises(UserError, match=r"a\.png cannot be read as BMP, PNG, TIFF"):
        read_labels(tmp_path / "a.png")


def test_label_checks():
    labels = np.array([[0, 11], [255, 1]], np.uint8)
    check_labels(labels, (2, 2), 12, 255, "x.png")
    with pytest.raises(UserError, match=r"x.png holds class ids \[11\], but there are 11 classes: use 0..10"):
        check_labels(labels, (2, 2), 11, 255, "x.png")
    with pytest.raises(UserError, match=r"x.png is 2 x 2 pixels but its image 3 x 2"):
        check_labels(labels, (2, 3), 12, 255, "x.png")


def test_overlay_keeps_ignored_pixels():
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, 255]], np.uint8)
    assert colour_labels(labels, [(200, 0, 0)]).tolist() == [[[200, 0, 0], [0, 0, 0]]]
    assert overlay_labels(image, labels, [(200, 0, 0)], opacity=0.5).tolist() == [[[150, 50, 50], [100, 100, 100]]]
