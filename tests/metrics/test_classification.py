"""Accuracies against scikit-learn, states as sums, and the picture of the confusion matrix."""

import io

import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from perception.errors import UserError
from perception.metrics.classification import (
    ClassificationMetrics,
    confusion_picture,
    format_table,
)

NAMES = [f"class {c}" for c in range(7)]


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (200,), generator=generator)
    scores = torch.randn(200, 7, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 7)
    return scores, labels


@pytest.mark.parametrize("k", [2, 3, 5])
def test_equals_scikit_learn(answers, k):
    scores, labels = answers
    metrics = ClassificationMetrics.of(scores.argsort(1, descending=True), labels, 7, k)
    guess = scores.argmax(1)
    assert metrics.images == 200
    assert metrics.top1 == pytest.approx(accuracy_score(labels, guess))
    assert metrics.topk == pytest.approx(top_k_accuracy_score(labels, scores, k=k))
    assert metrics.mean_per_class == pytest.approx(balanced_accuracy_score(labels, guess))
    assert (metrics.grouped(7).counts.numpy() == confusion_matrix(labels, guess)).all()


def test_states_add_up(answers):
    scores, labels = answers
    ranked = scores.argsort(1, descending=True)
    parts = [ClassificationMetrics.of(r, t, 7) for r, t in zip(ranked.split(30), labels.split(30), strict=True)]
    total, whole = sum(parts, ClassificationMetrics.empty(7)), ClassificationMetrics.of(ranked, labels, 7)
    assert total.report(NAMES) == whole.report(NAMES)


def test_a_class_without_images_leaves_the_mean_and_the_table():
    metrics = ClassificationMetrics.of(torch.tensor([[0, 1], [1, 0], [1, 0]]), torch.tensor([0, 0, 1]), 3, k=2)
    assert metrics.mean_per_class == pytest.approx(0.75)
    report = metrics.report(["cat", "dog", "cow"])
    assert report["classes"]["cow"] == {"images": 0, "accuracy": None}
    assert (report["top1"], report["top2"]) == (66.6667, 100.0)
    assert metrics.mistakes(["cat", "dog", "cow"]) == [("cat", "dog", 1)]
    table = format_table(metrics, ["cat", "dog", "cow"])
    assert "cat                  2    50.00%" in table
    assert "cow" not in table
    assert "mean per class       3    75.00%" in table


@pytest.mark.parametrize("classes", [2, 30, 113])
def test_the_picture_is_a_png_that_repeats(classes):
    random = torch.Generator().manual_seed(0)
    labels, guess = torch.randint(0, classes, (2, 400), generator=random)
    matrix = ClassificationMetrics.of(guess[:, None], labels, classes, k=1).grouped(classes)
    names = [f"a rather long name {c}" for c in range(classes)]
    content = confusion_picture(matrix, names)
    assert min(Image.open(io.BytesIO(content)).size) > 300
    assert content == confusion_picture(matrix, names)


def test_bad_shapes_get_one_sentence():
    with pytest.raises(UserError, match=r"expected \[B, 5 or more\] and \[B\]"):
        ClassificationMetrics.of(torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), 9)
    with pytest.raises(UserError, match=r"holds class ids \[9\]"):
        ClassificationMetrics.of(torch.zeros(1, 2, dtype=torch.long), torch.tensor([9]), 2)
