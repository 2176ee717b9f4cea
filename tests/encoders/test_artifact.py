"""Trained folders: the table of tasks knows the predictor of each."""

import numpy as np
import pytest
from PIL import Image

import perception
from perception.encoders.artifact import SHIPPED, read_artifact
from perception.errors import UserError
from perception.tasks import TASKS, imported

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("task", TASKS)
def test_every_row_names_classes_that_are_there(task):
    row = TASKS[task]
    assert imported(row.network).__name__ and imported(row.predictor).__name__
    assert read_artifact(SHIPPED / f"mini-{task}").row is row


@pytest.mark.parametrize("name", ["mini-depth", SHIPPED / "mini-depth", str(SHIPPED / "mini-depth")])
def test_a_model_is_loaded_by_name_and_by_folder(name):
    metres = perception.load_model(name, device="cpu")(PICTURE)
    assert metres.shape == (64, 64) and (metres > 0).all()


def test_every_task_has_its_predictor():
    semantic = perception.load_model("mini-semantic", device="cpu")(PICTURE)
    assert semantic.labels.shape == (64, 64)
    (found,) = perception.load_model("mini-referring", device="cpu")(PICTURE, ["a car"])
    assert found.text == "a car" and found.mask.shape == (64, 64)


def test_what_is_no_trained_folder(tmp_path):
    with pytest.raises(UserError, match="mini-swimming is no folder; name the folder of a trained model"):
        perception.load_model("mini-swimming")
    with pytest.raises(UserError, match=r"is no folder of a trained model: config\.json is missing"):
        perception.load_model(tmp_path)
