"""Fine-tuning the denoiser on two processes (gloo, CPU) is fine-tuning it on one with the doubled batch."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from safetensors.torch import load_file

from perception.errors import UserError
from perception.training.config.load import Overrides, load_config
from perception.training.runner import distributed

SCRIPT = Path(__file__).with_name("loss_file.py")
STEPS = 3


@pytest.fixture(scope="module")
def script():
    """The module that both runs share, which registers the hook that notes losses."""
    spec = spec_from_file_location("loss_file", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(script, tiny_sd, tmp_path):
    """The shipped VPD of the miniature world, made to train the denoiser for three steps of two scenes.

    GroupNorm stands in for the head's BatchNorm: torch shares BatchNorm's statistics between processes on GPUs alone.
    The loss is divided by all pixels, ignored ones too, so halves of a batch weigh the same.
    """
    options = {
        "model.backbone.name": tiny_sd,
        "model.backbone.train": "denoiser",
        "model.backbone.adapter": True,
        "model.backbone.latent_scale": 1.0,
        "model.backbone.standardize": False,
        "model.backbone.side": None,
        "model.backbone.store": None,
        "model.neck.out_channels": 8,
        "model.decode_head.channels": 8,
        "model.decode_head.dropout_ratio": 0.0,
        "model.decode_head.loss_decode.avg_non_ignore": False,
        "train_cfg.max_epochs": 1,
        "train_cfg.val_interval": 1,
        "param_scheduler.0.end": 2,
        "train_dataloader.dataset.dataset.count": 2 * STEPS,
        "val_dataloader.dataset.count": 2,
    }
    for part in ("neck", "decode_head"):
        options |= {f"model.{part}.norm_cfg.type": "GN", f"model.{part}.norm_cfg.num_groups": 2}
    for mode, inner in (("train", ".dataset"), ("val", "")):
        options |= {
            f"{mode}_dataloader.num_workers": 0,
            f"{mode}_dataloader.persistent_workers": False,
            f"{mode}_dataloader.dataset{inner}.size": "(64,64)",
            f"{mode}_dataloader.dataset{inner}.cache": tmp_path / "world",
        }
    made = load_config("configs/vpd/vpd_mini_world.py", Overrides([f"{k}={v}" for k, v in options.items()]))
    made.optim_wrapper = load_config("configs/vpd/vpd_sd15_ade20k.py").optim_wrapper  # the groups of the reference
    made.optim_wrapper.optimizer.lr = 1e-3
    made.custom_hooks = [{"type": "perception.LossFile"}]
    made.dump(tmp_path / "config.py")
    return tmp_path / "config.py"


def test_shared_norms_need_gpus(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = load_config("configs/vpd/vpd_sd15_ade20k.py")
    sentence = r"sync_bn='torch' .* works on GPUs alone; .* --cfg-options sync_bn=None"
    with pytest.raises(UserError, match=sentence), distributed(config):
        pytest.fail("the training began")
    assert load_config("configs/vpd/vpd_sd15_ade20k.py", Overrides(["sync_bn=None"])).sync_bn is None


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    sentence = "process 1 of this machine has no GPU: there are 1; .* --nproc-per-node 1, or CUDA_VISIBLE_DEVICES="
    with pytest.raises(UserError, match=sentence), distributed(load_config("configs/vpd/vpd_mini_world.py")):
        pytest.fail("the training began")


def test_two_processes_are_one_with_the_doubled_batch(script, config, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # here, as in the processes
    alone = script.main(config, tmp_path / "one", "train_dataloader.batch_size=2")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT]
    arguments = [config, tmp_path / "two", "train_dataloader.batch_size=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *arguments], env=environment, timeout=300, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = json.loads((tmp_path / "two" / "losses.json").read_text())
    assert len(alone) == STEPS
    assert together == pytest.approx(alone, abs=1e-5)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
    before = tiny_backbone.unet.state_dict()["mid_block.attentions.0.norm.weight"]  # runs at the full rate
    trained = one["segmentor.backbone.vpd.unet.mid_block.attentions.0.norm.weight"]
    assert (trained - before).abs().median() > 1e-4
