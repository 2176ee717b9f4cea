"""Folders of `perception generate` as training data: finished samples alone, filtered ones, refusals."""

import json

import pytest

from perception.engine.generated import generated_images
from perception.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "gen"
    lines = [{"id": f"a/{i}", "status": "done"} for i in range(3)] + [{"id": "a/3", "status": "failed"}]
    (root / "manifest.jsonl").parent.mkdir()
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("job.json", "README.md", *(f"images/a/{i}.png" for i in range(3))):
        _touch(root / name)
    for i in range(3):
        _touch(root / f"labels/a/{i}_labelTrainIds.png")
    return root


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_finished_samples_in_the_order_of_the_manifest(folder):
    pairs = generated_images(folder)
    assert [pair.stem for pair in pairs] == ["a/0", "a/1", "a/2"]
    assert pairs[1].image == folder / "images/a/1.png"
    assert pairs[1].labels == folder / "labels/a/1_labelTrainIds.png"


def test_accepted_samples_with_filtered_labels(folder, tmp_path):
    scored = tmp_path / "scored"
    _touch(scored / "labels_filtered/a/2_labelTrainIds.png")
    (scored / "accepted.txt").write_text("a/2\n")
    (pair,) = generated_images(folder, scored)
    assert pair.image == folder / "images/a/2.png"
    assert pair.labels == scored / "labels_filtered/a/2_labelTrainIds.png"


def test_accepted_samples_without_a_pixel_filter_keep_their_labels(folder, tmp_path):
    _touch(tmp_path / "scored/accepted.txt")
    (tmp_path / "scored/accepted.txt").write_text("a/0\na/1\n")
    assert [p.labels.parent.parent.parent for p in generated_images(folder, tmp_path / "scored")] == [folder, folder]


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda root: _touch(root / "manifest.rank00000.jsonl"), "did not finish; run the same `perception generate`"),
        (lambda root: (root / "manifest.jsonl").unlink(), "did not finish"),
        (lambda root: (root / "README.md").unlink(), "did not finish"),
        (lambda root: (root / "job.json").unlink(), "is no folder of `perception generate`"),
        (lambda root: (root / "images/a/1.png").unlink(), r"1 files of the samples are missing, first .*a/1.png"),
        (lambda root: (root / "manifest.jsonl").write_text(""), "has no finished sample to train on"),
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
    (tmp_path / "accepted.txt").write_text("b/9\n")
    with pytest.raises(UserError, match="names the sample b/9, which is not in"):
        generated_images(folder, tmp_path)
