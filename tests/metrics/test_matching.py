"""Winoground scores by their definition, and recall against scikit-learn's top-k accuracy."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from perception.errors import UserError
from perception.metrics.matching import PairScores, normalised, recall


def _counts(scores, tag=None):
    return PairScores.of(torch.tensor(scores, dtype=torch.float64), tag).counts


@pytest.mark.parametrize("values", itertools.product((0.0, 1.0, 2.0), repeat=4))
def test_two_by_two_examples_follow_the_definition(values):
    """Thrush et al. 2022, eq. 1 to 3, for every order of four scores and every tie."""
    c0_i0, c0_i1, c1_i0, c1_i1 = values
    text = c0_i0 > c1_i0 and c1_i1 > c0_i1
    image = c0_i0 > c0_i1 and c1_i1 > c1_i0
    counts = _counts([[c0_i0, c0_i1], [c1_i0, c1_i1]])
    assert counts == {
        ("Overall", "text"): (1, text),
        ("Overall", "image"): (1, image),
        ("Overall", "group"): (1, text and image),
    }


def test_one_image_with_a_wrong_caption_has_a_text_score_only():
    assert _counts([[2.0], [1.0]], "Swap") == {("Overall", "text"): (1, 1), ("Swap", "text"): (1, 1)}
    assert _counts([[1.0, 2.0]]) == {("Overall", "image"): (1, 0)}
    assert _counts([[3.0, 0.0], [1.0, 2.0], [0.0, 1.0]])["Overall", "group"] == (1, 1)
    assert _counts([[3.0, 0.0], [1.0, 2.0], [0.0, 2.0]])["Overall", "text"] == (1, 0)


def test_states_add_up_and_print_an_interval():
    total = sum((PairScores.of(torch.eye(2) * s, tag) for s, tag in ((1, "A"), (-1, "B"), (1, "A"))), PairScores())
    assert total.tags == ("Overall", "A", "B")
    assert total.rate("Overall", "group") == pytest.approx(2 / 3)
    assert total.half_width("Overall", "text") == pytest.approx(1.96 * (2 / 9 / 3) ** 0.5)
    assert total.lines()[0] == "Overall text score:  66.7 +/-  53.3"
    assert total.lines()[-1] == "B group score:  0.0 +/-  0.0"
    assert total.report()["A"]["text"] == {"examples": 2, "percent": 100.0, "half_width": 0.0}


def test_recall_equals_top_k_accuracy():
    random = np.random.default_rng(0)
    scores = random.normal(size=(30, 30))  # [captions, images]
    found = recall(torch.tensor(scores), torch.eye(30, dtype=torch.bool), (1, 5, 10))
    for k in (1, 5, 10):
        assert found.text_to_image[k] == pytest.approx(top_k_accuracy_score(range(30), scores, k=k))
        assert found.image_to_text[k] == pytest.approx(top_k_accuracy_score(range(30), scores.T, k=k))


def test_recall_with_several_captions_ties_and_queries_without_answer():
    scores = torch.tensor([[1.0, 0.0, 9.0], [1.0, 5.0, 9.0], [0.0, 5.0, 9.0]])
    matches = torch.tensor([[True, False, False], [False, True, False], [False, True, False]])
    found = recall(scores, matches, (1, 2))
    assert found.image_to_text == {1: 0.5, 2: 1.0}  # image 0: a tie with caption 1 is a mistake; image 2: no caption
    assert found.text_to_image == {1: 0.0, 2: 1.0}
    assert found.lines()[0] == "image -> text  R@1  50.0  R@2 100.0"
    with pytest.raises(UserError, match="do not fit matches"):
        recall(scores, matches[:2])


def test_the_unconditional_error_makes_images_comparable():
    errors = torch.tensor([[1.0, 5.2], [1.1, 5.0]], dtype=torch.float64)  # image 1 is harder to denoise
    assert PairScores.of(normalised(errors)).rate("Overall", "image") == 0
    better = normalised(errors, torch.tensor([1.15, 5.3]))
    assert PairScores.of(better).rate("Overall", "group") == 1
    assert torch.equal(better.argmax(0), normalised(errors).argmax(0))


def test_bad_scores_get_one_sentence():
    with pytest.raises(UserError, match="expected finite numbers"):
        PairScores.of(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(UserError, match="two of one or the other"):
        PairScores.of(torch.zeros(1, 1))
