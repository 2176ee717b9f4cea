"""Transforms of sentences and of depth: what is read, what the augmentations change, and that they come back."""

from dataclasses import replace

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from perception.data.nyu import NYUDepth
from perception.data.refcoco import Reference, read_photograph
from perception.errors import UserError
from perception.training.data.augment import CutDepth, DepthAugmentation, Squash
from perception.training.data.records import ReadRecord, RefCOCO


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmseg")


def frame(view=0, size=(96, 128)):
    """A picture whose red channel tells the depth of every pixel (in steps of 20 mm)."""
    steps = np.random.default_rng(5).integers(1, 250, size).astype(np.uint8)
    image = np.stack([np.full(size, 9, np.uint8), np.full(size, 99, np.uint8), steps], -1)  # BGR
    depth = (steps * 0.02).astype(np.float32)
    return {"img_path": "frame", "view": view, "img": image, "gt_depth_map": depth, "seg_fields": ["gt_depth_map"]}


def test_a_reference_becomes_image_sentence_and_mask(refcoco_folder):
    dataset = RefCOCO(refcoco_folder, "refcoco", "val", every=True)
    for number, sentence, colour in ((1, "left", (0, 0, 255)), (4, "lower right", (255, 0, 0))):
        sample = ReadRecord()(dataset.get_data_info(number))
        assert sample["sentence"] == sentence and sample["ori_shape"] == (64, 96)
        mask = sample["gt_seg_map"] == 1
        assert mask.sum() in (32 * 30, 40 * 30) and set(np.unique(sample["gt_seg_map"])) == {0, 1}
        assert np.abs(sample["img"][mask].mean(0) - colour).max() < 20  # BGR


def test_squash_is_pillow_s_and_keeps_the_mask_with_the_image(refcoco_folder):
    sample = ReadRecord()(RefCOCO(refcoco_folder, "refcoco", "val", every=True).get_data_info(0))
    image, mask = sample["img"], sample["gt_seg_map"]
    squashed = Squash((128, 160))(dict(sample))
    wanted = Image.fromarray(image).resize((160, 128), Image.Resampling.BILINEAR)
    assert np.array_equal(squashed["img"], wanted)
    wanted = Image.fromarray(mask).resize((160, 128), Image.Resampling.NEAREST)
    assert np.array_equal(squashed["gt_seg_map"], wanted)
    assert squashed["img_shape"] == (128, 160) and squashed["ori_shape"] == (64, 96)
    assert np.array_equal(Squash((128, 160), maps=False)(dict(sample))["gt_seg_map"], mask)


def test_pictures_of_another_size_are_refused(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    reference = Reference(3, tmp_path / "a.jpg", (10, 21), ("x",), [])
    with pytest.raises(UserError, match=r"a.jpg is 20 x 10 pixels, but instances.json says 21 x 10; take the photo"):
        read_photograph(reference)
    with pytest.raises(UserError, match=r"b.jpg does not exist"):
        read_photograph(Reference(3, tmp_path / "b.jpg", (10, 21), ("x",), []))


def test_a_depth_map_of_another_size_is_refused(nyu_folder, tmp_path):
    frames = NYUDepth(nyu_folder, "sync")
    Image.fromarray(np.zeros((60, 81), np.uint16)).save(tmp_path / "wrong.png")
    frames.frames[0] = replace(frames.frames[0], depth=tmp_path / "wrong.png")
    with pytest.raises(UserError, match=r"wrong.png is 81 x 60 pixels but its image 80 x 60; both must have the same"):
        frames.record(0)


def test_cut_depth_overwrites_columns_of_a_quarter_of_the_images():
    cut, widths, lefts = CutDepth(), [], []
    for view in range(400):
        sample, done = frame(view), cut(frame(view))
        changed = (done["img"] != sample["img"]).any(axis=(0, 2))
        assert np.array_equal(done["gt_depth_map"], sample["gt_depth_map"])
        if changed.any():
            columns = np.flatnonzero(changed)
            assert np.ptp(columns) + 1 == len(columns)
            millimetres = np.rint(sample["gt_depth_map"][:, columns] * 1000).astype(int)
            assert (done["img"][:, columns] == (millimetres % 256)[..., None]).all()
            lefts.append(columns[0] / 128)
            widths.append(len(columns) / (128 - columns[0]))
    assert 70 < len(widths) < 130
    assert max(widths) <= 0.76 and min(lefts) < 0.05 and max(lefts) > 0.9
    assert np.mean(widths) == pytest.approx(0.375, abs=0.06)  # b * 0.75, b uniform


def test_cut_depth_in_scaled_metres():
    done = CutDepth(share=1.0, value="scaled", max_depth=5.0)(frame())
    changed = np.flatnonzero((done["img"] != frame()["img"]).any(axis=(0, 2)))
    wanted = (255 * frame()["gt_depth_map"][:, changed] / 5.0).astype(np.uint8)
    assert (done["img"][:, changed] == wanted[..., None]).all()


def test_augmentation_moves_image_and_depth_together():
    augment = DepthAugmentation((64, 48), colour=0.0)
    crops = [augment(frame(view)) for view in range(12)]
    for crop in crops:
        assert crop["img"].shape == (64, 48, 3) and crop["img_shape"] == crop["gt_depth_map"].shape == (64, 48)
        assert np.allclose(crop["img"][..., 2] * 0.02, crop["gt_depth_map"])
    assert len({crop["img"].tobytes() for crop in crops}) == 12
    for view, crop in enumerate(crops):  # the same in every epoch and process
        assert np.array_equal(DepthAugmentation((64, 48), colour=0.0)(frame(view))["img"], crop["img"])


def test_half_of_the_images_are_mirrored():
    augment = DepthAugmentation(colour=0.0)
    flipped = [np.array_equal(augment(frame(v))["img"], frame()["img"][:, ::-1]) for v in range(60)]
    assert 18 < sum(flipped) < 42


def test_colours_change_the_image_alone():
    augment = DepthAugmentation(flip=0.0, colour=1.0)
    done = augment(frame())
    assert np.array_equal(done["gt_depth_map"], frame()["gt_depth_map"])
    assert (done["img"] != frame()["img"]).mean() > 0.5
    assert np.array_equal(DepthAugmentation(flip=0.0, colour=0.0)(frame())["img"], frame()["img"])  # BGR stays BGR


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match="frame is 128 x 96 pixels, too small for a crop of 64 x 100; set a smaller"):
        DepthAugmentation((100, 64))(frame())
