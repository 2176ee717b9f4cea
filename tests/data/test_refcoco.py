"""The REFER layout written by the tests: splits, sentences, polygons, run lengths, and what is wrong with a file."""

import json
import os
import pickle
import resource

import numpy as np
import pytest

from perception.data.refcoco import polygon_mask, read_references, segmentation_mask
from perception.errors import UserError

SPLITS = {"refcoco": ("train", "val", "testA", "testB"), "refcocog": ("train", "val", "test")}
SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


def write(root, name, author, refs, annotations, images, protocol=2):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({author}).p").write_bytes(pickle.dumps(refs, protocol))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))


def reference(number, split, *sentences, image=7, annotation=70):
    said = [{"sent_id": 10 * number + i, "raw": raw, "sent": raw.lower()} for i, raw in enumerate(sentences)]
    return {"ref_id": number, "image_id": image, "ann_id": annotation, "split": split, "sentences": said}


def annotation(segmentation=SQUARE, number=70):
    return {"id": number, "image_id": 7, "category_id": 1, "segmentation": segmentation}


IMAGE = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 6, "width": 8}


@pytest.mark.parametrize(("name", "author"), [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")])
@pytest.mark.parametrize("protocol", [0, 2, 4])  # the published files are Python 2's
def test_every_split_and_all_its_sentences(tmp_path, name, author, protocol):
    splits = SPLITS.get(name, SPLITS["refcoco"])
    refs = [reference(9 - i, split, f"The {split}", "left one") for i, split in enumerate(splits)]
    refs.append(reference(3, "train", "Another"))
    write(tmp_path, name, author, refs, [annotation()], [IMAGE], protocol)
    for split in splits:
        first = read_references(tmp_path, name, split)[-1]
        assert first.sentences == (f"The {split}", "left one")  # as written, not lower case
        assert first.image == tmp_path / "images/mscoco/images/train2014/COCO_train2014_000000000007.jpg"
        assert first.size == (6, 8) and first.mask.sum() == 4 * 3
    assert [ref.ref_id for ref in read_references(tmp_path, name, "train", author)] == [3, 9]
    assert read_references(tmp_path, name, "val", images="photos")[0].image.parent == tmp_path / "photos"


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    mask = polygon_mask(np.array(SQUARE[0]).reshape(-1, 2), (6, 8))
    wanted = np.zeros((6, 8), bool)
    wanted[1:4, 2:6] = True
    assert np.array_equal(mask, wanted)
    shifted = np.array(SQUARE[0]).reshape(-1, 2) + np.array([0.45, 0.0])
    assert np.array_equal(polygon_mask(shifted, (6, 8)), wanted)
    assert np.array_equal(polygon_mask(shifted + np.array([0.2, 0.0]), (6, 8)), np.roll(wanted, 1, axis=1))
    outside = polygon_mask(np.array([[-9, -9], [20, -9], [20, 20], [-9, 20]], float), (6, 8))
    assert outside.all()


@pytest.mark.parametrize("seed", range(8))
def test_polygons_equal_even_odd_counting_pixel_by_pixel(seed):
    corners = np.random.default_rng(seed).integers(-10, 200, (7, 2)) / 5  # crosses itself, leaves the picture
    mask = polygon_mask(corners, (30, 40))
    ends = np.roll(corners, -1, axis=0)
    for y, x in np.random.default_rng(seed).integers(0, (30, 40), (200, 2)):
        inside = False
        for (x0, y0), (x1, y1) in zip(corners, ends, strict=True):
            if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                inside ^= x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) <= x + 0.5
        assert mask[y, x] == inside


def test_several_polygons_are_one_thing():
    mask = segmentation_mask([SQUARE[0], [0, 0, 3, 0, 3, 2, 0, 2]], (6, 8))
    assert mask.sum() == 12 + 6 - 1  # the shared pixel stays
    assert not segmentation_mask([], (6, 8)).any()


def compressed(runs):
    """COCO's string of run lengths, written from its description: groups of five bits, differences, offset 48."""
    text = ""
    for i, run in enumerate(runs):
        value, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + (32 if more else 0))
    return text


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_compressed_or_not(seed):
    mask = np.random.default_rng(seed).random((50, 60)) < 0.02 + 0.3 * (seed == 3)
    mask[20:30] = seed % 2
    flat = mask.T.ravel()  # columns
    changes = np.flatnonzero(np.diff(flat.astype(int), prepend=0))
    runs = np.diff([0, *changes, flat.size]).tolist()
    for counts in (runs, compressed(runs), compressed(runs).encode()):
        assert np.array_equal(segmentation_mask({"counts": counts, "size": [50, 60]}, (50, 60)), mask)
    with pytest.raises(UserError, match="the mask of reference 4 covers 3000 pixels, but its image has 61 x 50"):
        segmentation_mask({"counts": runs}, (50, 61), "reference 4")


class Harmful:
    def __reduce__(self):
        return os.getcwd, ()


def test_pickled_code_is_never_run(tmp_path):
    write(tmp_path, "refcoco", "unc", [Harmful()], [], [])
    with pytest.raises(UserError, match=r"refs\(unc\).p is no list of references \(it names posix.getcwd\)"):
        read_references(tmp_path, "refcoco", "train")


@pytest.mark.parametrize(
    ("refs", "annotations", "message"),
    [
        ([reference(1, "val", "x")], [annotation()], r"has no split 'train'; choose one of val"),
        ([reference(1, "train", "x", image=8)], [annotation()], r"does not fit instances.json .*KeyError: 8"),
        ([reference(1, "train", "x", annotation=71)], [annotation()], r"does not fit instances.json .*KeyError: 71"),
        ([reference(1, "train", "x", "  ")], [annotation()], "reference 1 has no sentence, or an empty one"),
        ([reference(1, "train")], [annotation()], "reference 1 has no sentence"),
        ([{"ref_id": 1}], [], "KeyError: 'split'"),
        ({"train": 1}, [], "TypeError"),
    ],
)
def test_files_that_do_not_fit(tmp_path, refs, annotations, message):
    write(tmp_path, "refcoco", "unc", refs, annotations, [IMAGE])
    with pytest.raises(UserError, match=message):
        read_references(tmp_path, "refcoco", "train")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="there is no data set 'refcocox'; choose one of refcoco, refcoco"):
        read_references(tmp_path, "refcocox", "train")
    with pytest.raises(UserError, match=r"refs\(google\).p does not exist; configs/README.md says"):
        read_references(tmp_path, "refcocog", "train", "google")
    write(tmp_path, "refcoco", "unc", [reference(1, "train", "x")], [annotation()], [IMAGE])
    (tmp_path / "refcoco/instances.json").write_text("{")
    with pytest.raises(UserError, match=r"instances.json is no JSON .*; correct it"):
        read_references(tmp_path, "refcoco", "train")
    (tmp_path / "refcoco/instances.json").unlink()
    with pytest.raises(UserError, match=r"instances.json does not exist"):
        read_references(tmp_path, "refcoco", "train")
    for torn in (b"", b"torn", pickle.dumps([1, 2])[:-3]):
        (tmp_path / "refcoco/refs(unc).p").write_bytes(torn)
        with pytest.raises(UserError, match="is no list of references"):
            read_references(tmp_path, "refcoco", "train")


ODD_PICKLES = {
    "a number": 3,
    "texts": ["a", "b"],
    "no list of sentences": [{**reference(1, "train", "x"), "sentences": 5}],
    "a sentence that is a number": [{**reference(1, "train", "x"), "sentences": [{"raw": 5}]}],
    "numbers that are texts": [{**reference(1, "train", "x"), "ref_id": "one"}],
    "numbers of several kinds": [reference(1, "train", "x"), {**reference(1, "train", "y"), "ref_id": None}],
    "a list for a number": [{**reference(1, "train", "x"), "image_id": [7]}],
    "splits of several kinds": [{**reference(1, "val", "x"), "split": None}, reference(2, 3, "x")],
}


@pytest.mark.parametrize("content", ODD_PICKLES.values(), ids=list(ODD_PICKLES))
def test_odd_contents_of_a_pickle_are_one_sentence(tmp_path, content):
    write(tmp_path, "refcoco", "unc", content, [annotation()], [IMAGE])
    with pytest.raises(UserError) as caught:
        read_references(tmp_path, "refcoco", "train")
    assert "refs(unc).p" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a list, memo entry 2,147,483,647
        b"\x80\x05\x96" + (1 << 45).to_bytes(8, "little") + b".",  # an array of 35 TB
        b"\x80\x02}}b.",  # a state set on a dictionary
        b"(lp0\np1\n" + b"(" * 100_000,
        b"\x80\x02]q\x00h\x07.",
        b"\x80\x02X\xff\xff\xff\x7f.",
    ],
    ids=["memo", "array", "state", "marks", "no entry", "length"],
)
def test_a_hostile_pickle_is_one_sentence_and_takes_no_memory(tmp_path, content):
    write(tmp_path, "refcoco", "unc", [], [annotation()], [IMAGE])
    (tmp_path / "refcoco/refs(unc).p").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"refs\(unc\)\.p (is no list of references|has no split 'train')"):
        read_references(tmp_path, "refcoco", "train")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize(
    "segmentation",
    [
        5,
        ["a"],
        [[1, 2, 3]],
        [[float("nan")] * 6],
        [[1e300, 0, 2, 2, 3, 3, 1, float("inf")]],
        [{}],
        {},
        {"counts": [1, "2"]},
        {"counts": [-5, 53]},
        {"counts": "\u20ac"},
        {"counts": None},
        None,
    ],
)
def test_what_is_no_segmentation_is_one_sentence(segmentation):
    with pytest.raises(UserError, match="the mask of it "):
        segmentation_mask(segmentation, (6, 8), "it")


@pytest.mark.parametrize("change", [{"height": "6"}, {"height": -6}, {"width": 1 << 40}, {"file_name": 7}])
def test_odd_photographs_are_one_sentence(tmp_path, change):
    write(tmp_path, "refcoco", "unc", [reference(1, "train", "x")], [annotation()], [IMAGE | change])
    with pytest.raises(UserError, match=r"does not fit instances\.json"):
        read_references(tmp_path, "refcoco", "train")
