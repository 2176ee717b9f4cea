"""Judging labelled images by a segmentor's logits."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from perception.curation import consistency
from perception.curation.consistency import ConsistencyPredictor, filtered_labels, judge, loss_limits
from perception.errors import UserError
from perception.metrics import ClassLoss


def sample(classes=7):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(classes, 5, 6, generator=generator)
    labels = torch.randint(0, classes, (20, 24), generator=generator).to(torch.uint8)
    labels[:3] = 255
    return logits, labels


@pytest.mark.parametrize("values", [20 * 24 * 2, 2**25])  # two classes at a time, all at once
def test_classes_and_losses_are_those_of_torch(monkeypatch, values):
    monkeypatch.setattr(consistency, "_MOST_VALUES", values)
    logits, labels = sample()
    full = F.interpolate(logits[None], labels.shape, mode="bilinear")
    wanted = F.cross_entropy(full, labels[None].long(), ignore_index=255, reduction="none")[0]
    prediction, loss = judge(logits, labels)
    assert torch.equal(prediction.long(), full[0].argmax(0)) and prediction.dtype == torch.uint8
    assert torch.allclose(loss, wanted, atol=1e-5) and (loss[:3] == 0).all()


class Thirds(torch.nn.Module):
    """The brightness of red, green and blue as the logits of three classes."""

    classes = ("red", "green", "blue")
    image_size, tested_side = (64, 64), None

    def forward(self, images):
        return 8 * images


def flag():
    pixels = np.zeros((64, 96, 3), np.uint8)
    labels = np.repeat(np.repeat(np.arange(3, dtype=np.uint8), 32)[None], 64, axis=0)
    for colour in range(3):
        pixels[..., colour][labels == colour] = 255
    return Image.fromarray(pixels), labels


def test_scores_of_a_right_and_a_wrong_label_map():
    predictor = ConsistencyPredictor(Thirds())
    image, labels = flag()
    right = predictor(image, labels)
    assert right.pixel_accuracy > 0.97 and right.mean_iou > 0.95 and right.class_loss.mean < 0.2
    assert right.prediction.shape == labels.shape and right.loss.dtype == np.float32
    wrong = predictor(image, np.roll(labels, 32, axis=1))
    assert wrong.pixel_accuracy < 0.03 and wrong.class_loss.mean > 6
    part = labels.copy()
    part[:, 32:] = 255
    alone = predictor(image, part)
    assert alone.mean_iou == alone.pixel_accuracy > 0.95  # the mean is over the label map's classes alone


def test_the_filter_ignores_what_the_image_does_not_show():
    predictor = ConsistencyPredictor(Thirds())
    image, labels = flag()
    limits = loss_limits(predictor(image, labels).class_loss, 1.25)
    edited = labels.copy()
    edited[10:30, 40:56] = 0  # says red, shows green
    before = edited.copy()
    kept = filtered_labels(edited, predictor(image, edited).loss, limits)
    assert (kept[10:30, 40:56] == 255).all() and (kept[40:60, 40:56] == 1).all()
    assert np.array_equal(edited, before) and kept.dtype == np.uint8


def test_the_limit_is_strict_and_absent_classes_have_none():
    loss = torch.tensor([1.0, 3.0, 2.0, 9.0])
    measured = ClassLoss.of(loss, torch.tensor([0, 0, 1, 255]), 3)
    limits = loss_limits(measured, 1.5)
    assert limits.tolist() == [3.0, 3.0, np.inf]
    labels = np.array([[0, 0, 1, 2, 255]], np.uint8)
    kept = filtered_labels(labels, np.array([[3.0, 3.1, 3.1, 1e9, 0.0]]), limits)
    assert kept.tolist() == [[0, 255, 255, 2, 255]]


def test_mistakes_are_one_sentence():
    network = Thirds()
    network.classes = ("red", "green")
    with pytest.raises(UserError, match="gives 3 logits for its 2 classes"):
        ConsistencyPredictor(network)(*flag())
    with pytest.raises(UserError, match="multiples of 64"):
        ConsistencyPredictor(Thirds(), size=(100, 64))
