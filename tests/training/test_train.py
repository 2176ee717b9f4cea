"""tools/train.py and tools/test.py from end to end on a tiny folder, and their error sentences."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from perception.training.export.mmseg_model import SegmentationModel
from perception.training.models.frozen import shared_backbone

CONFIG = "configs/fpn/fpn_mini_camvid.py"


def _tool(name):
    spec = spec_from_file_location(f"tools_{name}", Path("tools") / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


train, evaluate = _tool("train"), _tool("test")


@pytest.fixture
def run(camvid_folder, small, tmp_path):
    """Calls tools/train.py: options -> (exit status, work dir)."""

    def call(*options, name="run", extra=(), data=camvid_folder):
        work_dir = tmp_path / name
        arguments = [CONFIG, "--data-root", str(data), "--work-dir", str(work_dir), *extra]
        return train([*arguments, "--cfg-options", *small, *options]), work_dir

    return call


def _count_backbone_calls(tiny_sd):
    backbone = shared_backbone(str(tiny_sd), "float32", None, None)
    seen = {"vae": 0, "unet": 0}

    def counter(name):
        return lambda module, arguments: seen.__setitem__(name, seen[name] + len(arguments[0]))

    hooks = [
        backbone.vae.encoder.register_forward_pre_hook(counter("vae")),
        backbone.unet.conv_in.register_forward_pre_hook(counter("unet")),
    ]
    return seen, hooks


def test_a_schedule_that_begins_after_the_last_iteration_is_a_sentence(run, capfd):
    by_iterations = ("by_epoch=False", "convert_to_iter_based=False", "begin=50")
    options = [f"param_scheduler.1.{option}" for option in by_iterations]
    assert run("train_cfg.max_epochs=1", *options)[0] == 2
    error = capfd.readouterr().err
    assert "param_scheduler.1: CosineAnnealingLR begins at iteration 50, but the training ends at" in error
    assert "Traceback" not in error


def test_train_resume_and_test(run, camvid_folder, small, tiny_sd, tmp_path, capfd):
    seen, hooks = _count_backbone_calls(tiny_sd)
    status, work_dir = run("train_cfg.max_epochs=1")
    assert status == 0
    assert seen == {"vae": 10, "unet": 10}  # 4 training images in 2 views, 2 validation images

    assert run("train_cfg.max_epochs=1")[0] == 2
    assert "already holds a run; add --resume to continue it, or choose another --work-dir" in capfd.readouterr().err

    assert run("train_cfg.max_epochs=3", extra=["--resume"])[0] == 0
    assert seen == {"vae": 10, "unet": 10}  # epochs 2 and 3 ran neither VAE nor denoiser
    for hook in hooks:
        hook.remove()

    metrics = json.loads((work_dir / "metrics.json").read_text())
    assert [entry["epoch"] for entry in metrics["validation"]] == [1, 2, 3]
    assert metrics["best"]["mIoU"] == max(entry["mIoU"] for entry in metrics["validation"])
    assert set(metrics["best"]["IoU"]) >= {"road", "sky"}
    assert "mIoU" in capfd.readouterr().out

    (checkpoint,) = work_dir.glob("best_mIoU_*.pth")
    assert checkpoint.stat().st_size < 300_000  # the head alone
    assert SegmentationModel.from_pretrained(work_dir / "model").image_size == (64, 64)

    common = [CONFIG, "--data-root", str(camvid_folder), "--work-dir", str(tmp_path / "test")]
    for weights in (work_dir / "model", checkpoint):
        pictures = tmp_path / f"pictures_{weights.suffix}"
        last = [str(weights), "--show-dir", str(pictures), "--cfg-options", *small]
        assert evaluate([common[0], *last[:1], *common[1:], *last[1:]]) == 0
        assert Image.open(pictures / "test1.png").size == (3 * 96, 64)
    report = json.loads((tmp_path / "test" / "test_metrics.json").read_text())
    assert report["pixels"] == 2 * 60 * 96


def test_control_run_and_resuming_another_model(run, tmp_path, capfd):
    """A random-weight control trains under the same config; its checkpoint does not resume a wider head."""
    assert run("model.backbone.random_init_seed=0", "train_cfg.max_epochs=1", name="control")[0] == 0
    config = json.loads((tmp_path / "control" / "model" / "config.json").read_text())
    assert config["model"]["backbone"]["random_init_seed"] == 0
    backbone = shared_backbone(config["model"]["backbone"]["name"], "float32", 0, None)
    assert config["backbone_fingerprint"] == backbone.fingerprint

    wider = ("model.backbone.random_init_seed=0", "model.decode_head.channels=9")
    assert run(*wider, name="control", extra=["--resume"])[0] == 2
    error = capfd.readouterr().err
    assert "the checkpoint does not fit the model of this config" in error
    assert "decode_head.conv_seg.weight is [11, 8, 1, 1], expected [11, 9, 1, 1]" in error


def test_accumulation_and_averaged_weights(run):
    """Gradient accumulation and EMA come from mmengine; the average is what is exported."""
    options = ("train_cfg.max_epochs=1", "optim_wrapper.accumulative_counts=2")
    status, work_dir = run(*options, name="ema", extra=["--ema", "0.5"])
    assert status == 0
    state = torch.load(next(work_dir.glob("epoch_1.pth")), weights_only=False, map_location="cpu")
    averaged, last = state["state_dict"], state["ema_state_dict"]
    assert any(not torch.equal(averaged[k], last[f"module.{k}"]) for k in averaged)
    exported = load_file(work_dir / "model" / "model.safetensors")
    assert all(torch.equal(exported[f"segmentor.{k}"], value) for k, value in averaged.items())


def test_mixed_precision_on_a_cpu(run, monkeypatch):
    """bfloat16 autocast, without loss scaling."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, work_dir = run("train_cfg.max_epochs=1", name="amp", extra=["--amp"])
    assert status == 0
    assert "BFloat16OptimWrapper" in next(work_dir.glob("*.py")).read_text()
    assert 0 <= json.loads((work_dir / "metrics.json").read_text())["best"]["mIoU"] <= 100


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["model.backbone.taps=[up_blocks.9]"], "unknown tap 'up_blocks.9'"),
        (["model.backbone.name=nowhere/at_all"], "nowhere/at_all"),
        (["model.neck.out_chanels=3", "train_cfg.max_epoch=3"], "has 2 mistakes"),
        (["train_dataloader.dataset.dataset.split=trian"], "has no split 'trian'; there are: test, train, val"),
        (["default_hooks.checkpoint.save_best=auto"], "save_best is 'auto'; name the one figure that chooses the best"),
        (["train_dataloader.dataset.dataset.pipeline.1.num_classes=2"], "but there are 2 classes: use 0..1"),
    ],
)
def test_bad_input_is_one_sentence(run, capfd, options, sentence):
    assert run(*options)[0] == 2
    error = capfd.readouterr().err
    assert error.startswith("train: ")
    assert sentence in error
    assert "Traceback" not in error


@pytest.mark.parametrize("momentum", ["0", "1", "-0.1", "nan"])
def test_momentum_outside_its_range(run, capfd, momentum):
    with pytest.raises(SystemExit, match="2"):
        run(extra=[f"--ema={momentum}"])
    assert f"{momentum} is not between 0 and 1; expected a small number such as 0.01" in capfd.readouterr().err


def test_missing_data_root(run, capfd, tmp_path):
    assert run(data=tmp_path / "nowhere")[0] == 2
    assert "does not exist; download the data set (the docstring of the config says where)" in capfd.readouterr().err


def test_bad_label_in_a_worker_process_is_one_sentence(run, camvid_folder, capfd, tmp_path):
    import shutil

    data = shutil.copytree(camvid_folder, tmp_path / "data")
    Image.new("L", (96, 64), 77).save(data / "annotations/train/train3.png")
    assert run("train_dataloader.num_workers=1", data=data)[0] == 2
    error = capfd.readouterr().err
    assert "train: the label map" in error
    assert "train3.png holds class ids [77], but there are 11 classes: use 0..10" in error
    assert "Traceback" not in error


def test_weights_of_another_model(camvid_folder, small, tmp_path, capfd):
    checkpoint = tmp_path / "other.pth"
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, checkpoint)
    arguments = [CONFIG, str(checkpoint), "--data-root", str(camvid_folder), "--work-dir", str(tmp_path / "t")]
    assert evaluate([*arguments, "--cfg-options", *small]) == 2
    error = capfd.readouterr().err
    assert "does not fit the model of this config" in error
    assert "missing decode_head.conv_seg.weight" in error
    assert "unexpected head.weight" in error
    for content in ([1, 2], {"state_dict": None}, {"state_dict": {"a": 1}}):
        torch.save(content, checkpoint)
        assert evaluate([*arguments, "--cfg-options", *small]) == 2
        assert "other.pth holds no tensors under state_dict; name a checkpoint" in capfd.readouterr().err
    checkpoint.write_bytes(b"torn")
    assert evaluate([*arguments, "--cfg-options", *small]) == 2
    assert "other.pth is no checkpoint, or a torn one" in capfd.readouterr().err
    arguments[1] = str(tmp_path / "none.pth")
    assert evaluate([*arguments, "--cfg-options", *small]) == 2
    assert "none.pth does not exist; name a .pth file or the folder WORK_DIR/model" in capfd.readouterr().err


@pytest.mark.parametrize("tool", ["train", "test"])
def test_help_imports_nothing_heavy(tool):
    code = (
        f"import sys, runpy; sys.argv = ['tools/{tool}.py', '--help']\n"
        f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\n"
        "finally: print('heavy:', sorted({'torch', 'mmengine', 'mmseg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert "heavy: []" in done.stdout
