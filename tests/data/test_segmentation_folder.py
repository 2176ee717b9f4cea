"""Folders of images and label maps: the index and its error sentences."""

import numpy as np
import pytest
from PIL import Image

from perception.data.overlay import colour_labels, overlay_labels
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
