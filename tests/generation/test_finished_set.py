"""Folders of `perception generate` as training data: finished samples alone, filtered ones, refusals."""

import itertools
import json

import pytest

from perception.errors import UserError
from perception.generation.finished_set import check_set_classes, generated_images


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "gen"
    places = [[f"images/a/{i}.png", f"labels/a/{i}_labelTrainIds.png"] for i in range(3)]
    lines = [{"id": f"a/{i}", "status": "done", "output": output} for i, output in enumerate(places)]
    _write(
        root / "manifest.jsonl",
        "".join(json.dumps(line) + "\n" for line in [*lines, {"id": "a/3", "status": "failed"}]),
    )
    _write(root / "job.json", json.dumps({"options": {"classes": ["road", "traffic light"]}}))
    _write(root / "samples.txt", "a/0\na/1\na/2\n")
    for path in itertools.chain(*places):
        _write(root / path)
    return root


def _write(path, text="content"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_finished_samples_in_the_order_of_the_manifest(folder):
    pairs = generated_images(folder)
    assert [pair.stem for pair in pairs] == ["a/0", "a/1", "a/2"]
    assert pairs[1].image == folder / "images/a/1.png"
    assert pairs[1].labels == folder / "labels/a/1_labelTrainIds.png"


def test_accepted_samples_with_filtered_labels(folder, tmp_path):
    scored = tmp_path / "scored"
    _write(scored / "labels_filtered/a/2_labelTrainIds.png")
    _write(scored / "accepted.txt", "a/2\n")
    (pair,) = generated_images(folder, scored)
    assert pair.image == folder / "images/a/2.png"
    assert pair.labels == scored / "labels_filtered/a/2_labelTrainIds.png"
    pair.labels.unlink()
    with pytest.raises(UserError, match=r"1 files of the samples are missing or empty, first .*scored"):
        generated_images(folder, scored)


def test_accepted_samples_without_a_pixel_filter_keep_their_labels(folder, tmp_path):
    _write(tmp_path / "scored/accepted.txt", "a/0\na/1\n")
    assert [p.labels.parent.parent.parent for p in generated_images(folder, tmp_path / "scored")] == [folder, folder]


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda root: _write(root / "manifest.rank00000.jsonl"), "did not finish; run the same `perception generate`"),
        (lambda root: (root / "manifest.jsonl").unlink(), "did not finish"),
        (lambda root: (root / "samples.txt").unlink(), "did not finish"),
        (lambda root: (root / "job.json").unlink(), "is no folder of `perception generate`"),
        (
            lambda root: (root / "images/a/1.png").unlink(),
            r"1 files of the samples are missing or empty, first .*a/1.png",
        ),
        (lambda root: _write(root / "labels/a/2_labelTrainIds.png", ""), r"missing or empty, first .*2_labelTrainIds"),
        (lambda root: _write(root / "manifest.jsonl", ""), r"manifest.jsonl lacks the lines of 3 samples, first a/0"),
        (lambda root: _write(root / "samples.txt", ""), "holds no finished sample; its manifest.jsonl says why"),
        (lambda root: _write(root / "job.json", '{"options": {}}'), "is no folder of `perception generate`"),
    ],
)
def test_unfinished_folders_are_refused(folder, break_it, sentence):
    break_it(folder)
    with pytest.raises(UserError, match=sentence):
        generated_images(folder)


def test_filters_that_do_not_fit(folder, tmp_path):
    with pytest.raises(UserError, match="does not exist; make it with `perception generate --out"):
        generated_images(tmp_path / "none")
    with pytest.raises(UserError, match="is no finished folder of `perception score`"):
        generated_images(folder, tmp_path)
    _write(tmp_path / "accepted.txt", "b/9\n")
    with pytest.raises(UserError, match="names the sample b/9, which is not in"):
        generated_images(folder, tmp_path)
    _write(tmp_path / "accepted.txt", "")
    with pytest.raises(UserError, match="accepts no sample of"):
        generated_images(folder, tmp_path)


def test_samples_that_are_not_listed_are_no_part_of_the_set(folder):
    _write(folder / "samples.txt", "a/0\na/2\n")
    (folder / "images/a/1.png").unlink()
    assert [pair.stem for pair in generated_images(folder)] == ["a/0", "a/2"]


def test_classes_of_a_set(folder):
    check_set_classes(folder, ["Road", "traffic_light"], "the head")
    with pytest.raises(UserError, match=r"the head has 1 classes, but the data set 2"):
        check_set_classes(folder, ["road"], "the head")
    with pytest.raises(UserError, match=r"class 0 of the head is 'traffic light', but 'road' of the data set"):
        check_set_classes(folder, ["traffic light", "road"], "the head")
