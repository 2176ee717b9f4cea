"""Items: which files a job sees, under which ids."""

import os
from pathlib import Path

import pytest

from perception.errors import UserError
from perception.jobs import image_items, labelled_items
from perception.jobs.items import check_out


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def ids(items):
    return [item.id for item in items]


def test_folders_are_walked_and_ids_are_relative_and_sorted(tmp_path):
    touch(tmp_path, "b.png", "a.JPG", "sub/c.webp", "sub/deep/d.tif", "notes.txt", ".hidden.png", ".git/e.png")
    items = image_items([tmp_path])
    assert ids(items) == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.tif"]
    assert all(item.path == tmp_path / item.id and item.label is None for item in items)


def test_a_file_is_taken_whatever_its_suffix(tmp_path):
    touch(tmp_path, "photo.data")
    assert ids(image_items([str(tmp_path / "photo.data")])) == ["photo.data"]


def test_several_inputs_get_unique_ids_below_their_common_parent(tmp_path):
    touch(tmp_path, "x/a.png", "y/a.png", "y/b/a.png")
    assert ids(image_items([tmp_path / "y", tmp_path / "x"])) == ["x/a.png", "y/a.png", "y/b/a.png"]
    assert ids(image_items([tmp_path / "y", tmp_path / "y" / "b", tmp_path / "y" / "a.png"])) == ["a.png", "b/a.png"]


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "real/a.png")
    os.symlink(tmp_path / "real", tmp_path / "real" / "loop")
    touch(tmp_path, "data/b.png")
    os.symlink(tmp_path / "real", tmp_path / "data" / "link")
    assert ids(image_items([tmp_path / "real"])) == ["a.png"]
    assert ids(image_items([tmp_path / "data"])) == ["b.png", "link/a.png"]


def test_what_the_job_writes_is_no_input(tmp_path):
    touch(tmp_path, "a/x.png", "b/y.png", "out/confusion.png", "a/out/maps/z.png")
    os.symlink(tmp_path / "out", tmp_path / "b" / "link")
    assert ids(image_items([tmp_path], tmp_path / "out")) == ["a/out/maps/z.png", "a/x.png", "b/y.png"]
    assert ids(image_items([tmp_path / "a"], tmp_path / "a" / "out")) == ["x.png"]
    assert ids(image_items([tmp_path / "out"], tmp_path / "out")) == ["confusion.png"]
    assert ids(labelled_items(tmp_path, tmp_path / "out")) == ["a/out/maps/z.png", "a/x.png", "b/y.png"]


def test_missing_and_empty_inputs_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No input was given"):
        image_items([])
    with pytest.raises(UserError, match="none does not exist; name an image file or a folder"):
        image_items([tmp_path / "none"])
    with pytest.raises(UserError, match=r"holds no images \(\.bmp, .*\); check the folder"):
        image_items([tmp_path])


def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot be listed \(Permission denied\); check its permissions"):
        image_items([tmp_path])


def test_labels_are_the_names_of_sub_folders(tmp_path):
    touch(tmp_path, "dog/b.png", "cat/a.png", "cat/more/c.png", "README.md")
    items = labelled_items(tmp_path)
    assert [(item.id, item.label) for item in items] == [
        ("cat/a.png", "cat"),
        ("cat/more/c.png", "cat"),
        ("dog/b.png", "dog"),
    ]


def test_folders_without_classes_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        labelled_items(tmp_path / "none")
    with pytest.raises(UserError, match="has no sub-folders; one sub-folder per class was expected"):
        labelled_items(tmp_path)
    touch(tmp_path, "cat/a.txt")
    with pytest.raises(UserError, match="cat holds no images"):
        labelled_items(tmp_path)
    touch(tmp_path, "cat/a.png", "loose.png")
    with pytest.raises(UserError, match=r"has images outside class folders \(loose\.png\)"):
        labelled_items(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        labelled_items(tmp_path / "loose.png")


def test_out_is_no_input_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for out in (None, tmp_path, tmp_path / "photos" / "out"):
        check_out([tmp_path / "photos", tmp_path / "a.png"], out)
    with pytest.raises(UserError, match=r"--out .*photos is the folder of the images, to which .*; choose another one"):
        check_out([tmp_path / "photos" / ".." / "photos"], tmp_path / "photos")
