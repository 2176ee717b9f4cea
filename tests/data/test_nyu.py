"""NYU Depth v2 in the layout of BTS: lists, folders, 16-bit maps, and what is wrong with a file."""

import numpy as np
import pytest
from PIL import Image

from perception.data.nyu import NYU_ROOMS, check_depth, read_depth, read_frames, room_id
from perception.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Three frames of two rooms, one picture without a depth map, and a list of two of them in an order of its own."""
    for folder, number in (("study_room_0004", 2), ("kitchen_0028b", 45), ("kitchen_0028b", 7)):
        place = tmp_path / "sync" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"rgb_{number:05d}.jpg").touch()
        (place / f"sync_depth_{number:05d}.png").touch()
    (tmp_path / "sync/kitchen_0028b/rgb_00099.jpg").touch()
    lines = [f"/{name}/rgb_{n}.jpg /{name}/sync_depth_{n}.png 518.8579" for name, n in NAMED]
    (tmp_path / "train_list.txt").write_text("\r\n".join(lines) + "\n\n")
    return tmp_path


NAMED = (("study_room_0004", "00002"), ("kitchen_0028b", "00007"))


def test_a_list_names_frames_in_its_order(root):
    frames = read_frames(root, "sync", "train_list.txt")
    assert [frame.name for frame in frames] == ["study_room_0004_rgb_00002", "kitchen_0028b_rgb_00007"]
    assert frames[0].image == root / "sync/study_room_0004/rgb_00002.jpg"
    assert frames[0].depth == root / "sync/study_room_0004/sync_depth_00002.png"


def test_without_a_list_every_pair_of_the_folder_counts(root):
    frames = read_frames(root, "sync")
    assert [frame.name for frame in frames] == [
        "kitchen_0028b_rgb_00007",
        "kitchen_0028b_rgb_00045",
        "study_room_0004_rgb_00002",
    ]
    assert all(frame.image.is_file() and frame.depth.is_file() for frame in frames)


def test_depth_is_read_in_metres(tmp_path):
    millimetres = np.array([[0, 1, 1000], [2345, 9999, 65535]], np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "d.png")
    depth = read_depth(tmp_path / "d.png")
    assert depth.dtype == np.float32 and np.array_equal(depth, (millimetres / 1000).astype(np.float32))
    assert read_depth(tmp_path / "d.png", 256.0)[0, 2] == np.float32(1000 / 256)


def test_bad_depth_maps(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match=r"colour.png has mode RGB; expected 16-bit grey, 1000 counts per metre"):
        read_depth(tmp_path / "colour.png")
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"grey.png has mode L; expected 16-bit grey"):
        read_depth(tmp_path / "grey.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "colour.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"torn.png cannot be read .*; replace the file"):
        read_depth(tmp_path / "torn.png")
    with pytest.raises(UserError, match=r"none.png does not exist"):
        read_depth(tmp_path / "none.png")


def test_another_size_than_the_image(tmp_path):
    depth = np.zeros((4, 6), np.float32)
    check_depth(depth, (4, 6), "d.png")
    with pytest.raises(UserError, match=r"the depth map d.png is 6 x 4 pixels but its image 4 x 6; both must have"):
        check_depth(depth, (6, 4), "d.png")


def test_missing_and_empty_places(root):
    with pytest.raises(UserError, match=r"official_splits/test does not exist; configs/README.md says"):
        read_frames(root, "official_splits/test")
    with pytest.raises(UserError, match=r"the file list .*/none.txt does not exist; get it from BTS"):
        read_frames(root, "sync", "none.txt")
    (root / "bad.txt").write_text("\nrgb_1.jpg\n")
    with pytest.raises(UserError, match=r"line 2 of .*/bad.txt is 'rgb_1.jpg'; expected a picture and its depth map"):
        read_frames(root, "sync", "bad.txt")
    (root / "blank.txt").write_text("\n")
    with pytest.raises(UserError, match=r"the file list .*/blank.txt is empty"):
        read_frames(root, "sync", "blank.txt")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no rgb_<n>.jpg with a sync_depth_<n>.png beside it"):
        read_frames(root, "empty")


def test_rooms_are_substrings_in_the_order_of_the_table():
    assert len(NYU_ROOMS) == 27
    assert room_id("bedroom_0034/rgb_00012.jpg") == 8
    assert room_id("study_room_0004_out/rgb_00001.jpg") == NYU_ROOMS.index("study")
    assert room_id("office_kitchen_0002") == NYU_ROOMS.index("kitchen")
    assert room_id("street.jpg") == -1
