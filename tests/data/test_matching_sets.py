"""Examples and captions from files in the layouts people have, Winoground's first."""

import json

import pytest

from perception.data.matching_sets import MatchingExample, read_captions, read_examples
from perception.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("ex_0_img_0.png", "ex_0_img_1.png", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(b"")
    return tmp_path


def _write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_the_layout_of_winoground(folder):
    row = {
        "id": 7,
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "caption_0": "a, b",
        "caption_1": "b a",
        "tag": "Adjective-Color",
        "secondary_tag": "",
        "num_main_preds": 1,
        "collapsed_tag": "Object",
    }
    images = tuple(folder / "images" / f"ex_0_img_{i}.png" for i in range(2))
    expected = MatchingExample("7", images, ("a, b", "b a"), "Object")
    assert read_examples(_write(folder / "examples.jsonl", row)) == [expected]


def test_lists_csv_distractors_and_another_folder(folder):
    rows = {"images": ["b.jpg"], "captions": ["x", "y", "z"], "tag": "Swap"}, {"image": "b", "captions": ["x", "y"]}
    first, second = read_examples(_write(folder / "e.jsonl", *rows))
    assert first == MatchingExample("0", (folder / "images" / "b.jpg",), ("x", "y", "z"), "Swap")
    assert (second.id, second.tag) == ("1", None)
    (folder / "other").mkdir()
    file = folder / "other" / "e.csv"
    file.write_text('id,image_0,image_1,caption_0,caption_1\nq,b.jpg,,"one, two",three\n')
    (example,) = read_examples(file, folder / "images")
    assert example == MatchingExample("q", (folder / "images" / "b.jpg",), ("one, two", "three"))


def test_captions_of_a_folder(tmp_path):
    (tmp_path / "c.txt").write_text("a dog\n\n a cat \n")
    assert read_captions(tmp_path / "c.txt").captions == ("a dog", "a cat")
    assert read_captions(tmp_path / "c.txt").images == (None, None)
    (tmp_path / "c.csv").write_text("image,caption\n1.png,a dog\n1.png,dogs\n2.png,a cat\n")
    file = _write(
        tmp_path / "c.jsonl", {"image": "1.png", "captions": ["a dog", "dogs"]}, {"image": "2.png", "caption": "a cat"}
    )
    for found in (read_captions(tmp_path / "c.csv"), read_captions(file)):
        assert found.captions == ("a dog", "dogs", "a cat")
        assert found.images == ("1.png", "1.png", "2.png")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("e.txt", "x", "is neither .csv nor .jsonl"),
        ("e.jsonl", "", "holds no examples"),
        ("e.jsonl", "{", "line 1 of .* is no JSON"),
        ("e.jsonl", "[1]", "line 1 of .* is a list; give one object per line"),
        ("e.jsonl", '{"images": ["b.jpg"], "captions": ["x"]}', "row 1 of .* has 1 images and 1 captions"),
        ("e.jsonl", '{"images": ["c"], "captions": ["x", "y"]}', "the image 'c' of row 1 .* is not below"),
        ("e.csv", "id,image,caption_0,caption_1\n1,b,x,y\n1,b,x,y\n", "two examples with the id '1'"),
    ],
)
def test_bad_example_files_get_one_sentence(folder, name, text, sentence):
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_examples(folder / name)


def test_bad_caption_files_get_one_sentence(tmp_path):
    (tmp_path / "c.csv").write_text("picture,caption\n1.png,x\n")
    with pytest.raises(UserError, match=r"row 1 of .* needs an image and a caption; its keys are picture, caption"):
        read_captions(tmp_path / "c.csv")
    (tmp_path / "c.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no captions"):
        read_captions(tmp_path / "c.txt")
    with pytest.raises(UserError, match=r"nothing.txt does not exist; check the path"):
        read_captions(tmp_path / "nothing.txt")
