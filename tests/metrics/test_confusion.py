"""The IoU family against scikit-learn and mmseg, and its behaviour as a sum."""

import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from perception.errors import UserError
from perception.metrics import ConfusionMatrix
from perception.metrics.confusion import format_report


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 5, (4, 20, 30), generator=generator)
    prediction = torch.where(
        torch.rand(target.shape, generator=generator) < 0.6,
        target,
        torch.randint(0, 5, target.shape, generator=generator),
    )
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return prediction, target


def test_equals_scikit_learn(maps):
    prediction, target = maps
    matrix = ConfusionMatrix.of(prediction, target, 5)
    kept = target != 255
    truth, guess = target[kept].numpy(), prediction[kept].numpy()
    assert (matrix.counts.numpy() == confusion_matrix(truth, guess, labels=range(5))).all()
    assert matrix.iou.numpy() == pytest.approx(jaccard_score(truth, guess, average=None))


def test_equals_mmseg(maps):
    from mmseg.evaluation import IoUMetric

    prediction, target = maps
    areas = [IoUMetric.intersect_and_union(p, t, 5, 255) for p, t in zip(prediction, target, strict=True)]
    wanted = IoUMetric.total_area_to_metrics(*(sum(column) for column in zip(*areas, strict=True)), metrics=["mIoU"])
    matrix = ConfusionMatrix.of(prediction, target, 5)
    assert matrix.iou.numpy() == pytest.approx(wanted["IoU"], rel=1e-6)
    assert matrix.recall.numpy() == pytest.approx(wanted["Acc"], rel=1e-6)
    assert matrix.pixel_accuracy == pytest.approx(float(wanted["aAcc"]), rel=1e-6)


def test_states_add_up(maps):
    prediction, target = maps
    parts = [ConfusionMatrix.of(p, t, 5) for p, t in zip(prediction, target, strict=True)]
    assert torch.equal(sum(parts, ConfusionMatrix.empty(5)).counts, ConfusionMatrix.of(prediction, target, 5).counts)


def test_absent_class_leaves_the_mean():
    matrix = ConfusionMatrix.of(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 3)
    assert matrix.iou[2].isnan()
    assert matrix.mean_iou == pytest.approx(0.5)
    report = matrix.report(["road", "car", "bus"])
    assert report["IoU"] == {"road": 50.0, "car": 50.0, "bus": None}
    assert "bus        -      -" in format_report(report, "validation")


def test_bad_ids_and_shapes():
    with pytest.raises(UserError, match=r"label map holds class ids \[7\], but there are 3 classes: use 0..2, and 255"):
        ConfusionMatrix.of(torch.zeros(2, dtype=torch.long), torch.tensor([0, 7]), 3)
    with pytest.raises(UserError, match="resize the prediction"):
        ConfusionMatrix.of(torch.zeros(2), torch.zeros(3), 3)
