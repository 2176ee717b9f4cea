"""The config check: mistakes are found, all together, with the nearest names; shipped configs have none."""

import pytest

from perception.errors import UserError
from perception.training.config.check import config_mistakes, find_type, option_mistakes
from perception.training.config.load import Overrides, load_config, parse_options
from perception.training.config.variables import unread_variables

CONFIG = "configs/fpn/fpn_mini_camvid.py"


def _load(*options, **more):
    return load_config(CONFIG, Overrides(options, **more))


def _mistakes(*options):
    with pytest.raises(UserError) as error:
        _load(*options)
    return str(error.value)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("model.neck.out_chanels=32", "model.neck.out_chanels: FPN takes no 'out_chanels'; did you mean out_channels"),
        ("model.decode_head.drop_ratio=0.5", "FPNHead takes no 'drop_ratio'; did you mean dropout_ratio"),
        ("model.decode_head.loss_decode.class_weights=[1]", "CrossEntropyLoss takes no 'class_weights'"),
        ("model.backbone.timestep=[1]", "DiffusionFeatures takes no 'timestep'; did you mean timesteps"),
        ("model.backbon.name=x", "there is no 'backbon' in model; did you mean backbone?"),
        ("model.test_cfg.modes=slide", "test_cfg takes no 'modes'; did you mean mode?"),
        ("train_dataloader.bach_size=2", "DataLoader takes no 'bach_size'; did you mean batch_size"),
        ("train_dataloader.sampler.shufle=True", "DefaultSampler takes no 'shufle'; did you mean shuffle?"),
        ("train_dataloader.dataset.dataset.splitt=val", "CamVid takes no 'splitt'; did you mean split?"),
        ("val_dataloader.dataset.pipeline.1.scal=(8,8)", "Resize takes no 'scal'; did you mean scale"),
        (
            "val_dataloader.dataset.pipeline.9.scale=(8,8)",
            "the list val_dataloader.dataset.pipeline has the entries 0..3",
        ),
        ("default_hooks.checkpoint.intervall=2", "CheckpointHook takes no 'intervall'; did you mean interval"),
        ("default_hooks.chekpoint.interval=2", "there is no 'chekpoint' in default_hooks; did you mean checkpoint?"),
        ("optim_wrapper.optimizer.weigth_decay=0", "AdamW takes no 'weigth_decay'; did you mean weight_decay?"),
        ("optim_wrapper.acumulative_counts=2", "did you mean accumulative_counts"),
        ("param_scheduler.0.start_facto=0.1", "LinearLR takes no 'start_facto'; did you mean start_factor"),
        ("train_cfg.max_epoch=2", "EpochBasedTrainLoop takes no 'max_epoch'; did you mean max_epochs"),
        (
            "train_cfg.type=EpochTrainLoop",
            "train_cfg.type: nothing is called 'EpochTrainLoop'; did you mean EpochBased",
        ),
        ("val_evaluator.ignore=255", "SegmentationIoU takes no 'ignore'; did you mean ignore_index"),
        ("randomness.sead=2", "randomness takes no 'sead'; did you mean seed?"),
        ("train_dataloder.batch_size=2", "train_dataloder: is unknown; did you mean train_dataloader"),
        ("_root=/data", "_root: is a variable of the config file, already used when overrides come"),
        ("train_cfg=5", "train_cfg: has parts, which 5 would replace; set one of them, train_cfg.KEY=VALUE"),
        ("log_level.x=2", "log_level.x: log_level is 'INFO', which has no parts"),
    ],
)
def test_mistaken_overrides(option, sentence):
    assert sentence in _mistakes(option)


def test_a_training_shorter_than_its_warm_up_is_a_sentence():
    with pytest.raises(UserError) as error:
        load_config("configs/fpn/fpn_sd15_ade20k.py", Overrides(("train_cfg.max_iters=4",)))
    assert "param_scheduler.1: PolyLR begins at iteration 1500, but the training ends at 4; train longer" in str(
        error.value
    )
    assert "LinearLR begins at epoch 2, but it ends at 1" in _mistakes(
        "param_scheduler.0.by_epoch=True", "param_scheduler.0.begin=2", "param_scheduler.0.end=1"
    )


def test_all_mistakes_come_together():
    text = _mistakes("model.neck.out_chanels=32", "train_cfg.max_epoch=2", "randomness.sead=1")
    assert "has 3 mistakes:" in text
    assert text.count("did you mean") == 3


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("model.backbone.random_init_seed=0", "model.backbone.random_init_seed", 0),
        ("model.backbone.taps=[up_blocks.1,up_blocks.0]", "model.backbone.taps", ["up_blocks.1", "up_blocks.0"]),
        ("optim_wrapper.accumulative_counts=4", "optim_wrapper.accumulative_counts", 4),
        ("auto_scale_lr.enable=True", "auto_scale_lr.enable", True),
        ("train_dataloader.dataset.dataset.indices=5", "train_dataloader.dataset.dataset.indices", 5),
        ("load_from=x.pth", "load_from", "x.pth"),
    ],
)
def test_good_overrides(option, path, value):
    node = _load(option)
    for key in path.split("."):
        node = node[key]
    assert node == value


def test_data_root_and_work_dir():
    config = _load(data_root="/data/here", work_dir="out")
    assert config.train_dataloader.dataset.dataset.data_root == "/data/here"
    assert config.test_dataloader.dataset.data_root == "/data/here"
    assert config.work_dir == "out"
    assert _load().work_dir == "runs/fpn_mini_camvid"
    with pytest.raises(UserError, match="no data set of this config reads files"):
        load_config("configs/fpn/fpn_mini_world.py", Overrides(data_root="/data"))


def test_options_need_a_value():
    with pytest.raises(UserError, match="--cfg-options takes key=value pairs, but got train_cfg"):
        parse_options(["train_cfg"])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="does not exist; check the path"):
        load_config(tmp_path / "none.py")
    (tmp_path / "broken.py").write_text("model = {\n")
    with pytest.raises(UserError, match=r"is no valid Python: '{' was never closed in line 1"):
        load_config(tmp_path / "broken.py")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00", r"cannot be read \('utf-8' codec can't decode .*\); expected a Python file"),
        (b"model = 1 / 0\n", r"cannot be read \(ZeroDivisionError: division by zero\); correct it"),
        (b"_base_ = ['./none.py']\n", r"cannot be read \(FileNotFoundError: .*none.py'\); correct it"),
        (b"", r"has a mistake:\n  model: is missing; configs/README.md lists configs to start from"),
    ],
)
def test_configs_that_are_none(tmp_path, content, sentence):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load_config(path)
    with pytest.raises(UserError, match=r"cannot be read .*; expected a Python file"):
        load_config(tmp_path)


def test_variables_that_change_nothing(tmp_path):
    (tmp_path / "base.py").write_text("crop = (8, 8)\nmodel = dict(size=crop)\nunused = 1\n")
    child = tmp_path / "child.py"
    child.write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
        "crop = (16, 16)\nwidth = 3\nmodel.update(dict(width=width))\ntrain_dataloder = {}\n"
    )
    assert unread_variables(child, {"model", "train_dataloader"}) == {
        "crop": "is a variable of a base file, which has already used its own value",
        "train_dataloder": "is unknown",
        "unused": "is unknown",
    }


def test_dumped_configs_load_again(tmp_path):
    first = _load("train_cfg.max_epochs=3")
    first.dump(tmp_path / "dumped.py")
    again = load_config(tmp_path / "dumped.py")
    assert again.train_cfg.max_epochs == 3
    assert again.model.to_dict() == first.model.to_dict()


def test_types_are_found_by_path_and_by_registered_name():
    from mmseg.models import FPN

    assert find_type("mmseg.models.FPN") is FPN is find_type("FPN")
    assert find_type("perception.DiffusionFeatures").__name__ == "DiffusionFeatures"
    assert find_type("mmseg.models.FPM") is None
    assert find_type("FPM") is None


def test_missing_arguments_of_our_own_parts():
    mistakes = config_mistakes({"train_dataloader": {"dataset": {"type": "perception.WorldScenes", "count": 3}}})
    assert mistakes == ["train_dataloader.dataset: WorldScenes needs split"]


def test_overrides_may_add_what_a_constructor_takes():
    config = {"train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 1}, "model": {"train_cfg": {}}}
    assert option_mistakes(config, {"train_cfg.val_begin": 2, "resume": True}) == []
    assert "there is no 'x' in model.train_cfg" in option_mistakes(config, {"model.train_cfg.x": 2})[0]
