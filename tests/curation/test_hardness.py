"""More samples for harder label maps."""

import json

import pytest

from perception.curation.hardness import mean_hardness, read_counts, sample_counts
from perception.errors import UserError
from perception.generation.domains import NONE
from perception.generation.samples import plan_samples


def test_hardness_is_the_mean_of_a_map_s_images():
    assert mean_hardness([("b", 1.0), ("a", 0.5), ("b", 2.0)]) == {"a": 0.5, "b": 1.5}


def test_counts_by_rank_and_by_loss():
    hardness = {"a": 0.1, "b": 10.0, "c": 0.2, "d": 0.3}
    assert sample_counts(hardness, 20) == {"a": 5, "b": 20, "c": 10, "d": 15}
    assert sample_counts(hardness, 20, "loss") == {"a": 1, "b": 20, "c": 1, "d": 1}
    assert sample_counts({"a": 1.0, "b": 1.0, "c": 2.0}, 2) == {"a": 1, "b": 2, "c": 2}
    assert sample_counts({"a": 0.0}, 3, "loss") == {"a": 1} and sample_counts({}, 3) == {}
    with pytest.raises(UserError, match="expected rank or loss"):
        sample_counts(hardness, 20, "size")


def test_samples_by_label_map(tmp_path):
    files = {f"{name}_labelTrainIds.png": tmp_path / name for name in "abc"}
    counts = dict(zip(files, (2, 0, 1), strict=True))
    samples = plan_samples(files, counts, (NONE,), 0, dict.fromkeys(files))
    assert [sample.id for sample in samples] == ["a_0", "a_1", "c_0"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is no JSON"),
        ("[1]", "are no table"),
        ('{"a.png": -1, "b.png": 2}', "number of samples, 0 or more"),
        ('{"a.png": true, "b.png": 2}', "number of samples, 0 or more"),
        ('{"a.png": 1, "b.png": 2, "z.png": 1}', "name z.png, which is no label map below --labels"),
        ('{"a.png": 1}', "have none for 1 label maps such as b.png"),
    ],
)
def test_bad_counts_are_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "counts.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_counts(path, {"a.png", "b.png"}, ["a.png", "b.png"])


def test_good_counts_are_read(tmp_path):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"a.png": 3, "b.png": 0}))
    assert read_counts(path, {"a.png", "b.png"}, ["a.png"]) == {"a.png": 3, "b.png": 0}
