"""The scheduler slot of a model folder: a listed class, built from its config alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from perception.backbones import load_backbone
from perception.backbones.loading.schedulers import SCHEDULERS, build_scheduler
from perception.backbones.noise_path import noise_path
from perception.errors import UserError


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_listed_scheduler_is_what_from_pretrained_makes(name: str, tmp_path: Path) -> None:
    cls = getattr(diffusers, name)
    betas = {} if name.startswith("FlowMatch") else {"beta_schedule": "scaled_linear", "beta_start": 1e-3}
    cls(num_train_timesteps=200, **betas).save_pretrained(tmp_path)
    theirs = cls.from_pretrained(tmp_path)
    ours = build_scheduler(name, dict(theirs.config), tmp_path)
    steps = torch.tensor([0, 50, 199])
    first, second = noise_path(ours), noise_path(theirs)
    assert first.num_train_timesteps == 200 and type(ours) is cls
    assert torch.equal(first.alpha(steps), second.alpha(steps)) and torch.equal(first.sigma(steps), second.sigma(steps))


@pytest.mark.parametrize(
    "name", ["UNet2DConditionModel", "StableDiffusionPipeline", "AutoencoderKL", "os", "DDIMScheduler.x", "FlaxDDIM"]
)
def test_another_class_is_refused_before_weights_are_read(
    make_folder: Callable[[str], Path], edit: Callable[..., None], name: str
) -> None:
    folder = make_folder("sd1")
    edit(folder / "model_index.json", scheduler=["diffusers", name])
    for file in folder.rglob("*.safetensors"):
        file.with_suffix(".bin").write_bytes(b"\x80\x04")  # what a pickle begins with
    with pytest.raises(UserError, match=f"the scheduler is '{name}', supported are DDIMScheduler, ") as caught:
        load_backbone(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train_timesteps": 10**12}, "num_train_timesteps is '1000000000000', expected 1 to 100000"),
        ({"num_train_timesteps": True}, "num_train_timesteps is 'True'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is '0'"),
        ({"trained_betas": {"a": 1}}, "trained_betas is {'a': 1}"),
        ({"trained_betas": "abc"}, "DDIMScheduler does not take scheduler/scheduler_config.json"),
        ({"beta_start": float("nan")}, "signal coefficients run from nan to nan; expected values from 1 down to 0"),
        ({"beta_start": 5.0}, "signal coefficients run from -4 to "),
        ({"prediction_type": ["epsilon"]}, r"prediction_type is \['epsilon'\]"),
    ],
)
def test_odd_values(
    make_folder: Callable[[str], Path], edit: Callable[..., None], change: dict[str, Any], message: str
) -> None:
    folder = make_folder("sd1")
    edit(folder / "scheduler/scheduler_config.json", beta_schedule="linear", **change)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"shift": -1.0}, {"shift": "x"}, {"use_dynamic_shifting": True, "base_image_seq_len": 4096}],
)
def test_odd_flows(make_transformer: Callable[[str], Path], edit: Callable[..., None], change: dict[str, Any]) -> None:
    folder = make_transformer("sd3")
    edit(folder / "scheduler/scheduler_config.json", **change)
    with pytest.raises(
        UserError, match=r"scheduler's (shift|dynamic shifting) is|FlowMatchEulerDiscreteScheduler does not take"
    ):
        load_backbone(folder, device="cpu")


def test_building_one_imports_no_scipy() -> None:
    program = (
        "import sys; from perception.backbones.loading.schedulers import build_scheduler; before = set(sys.modules); "
        "build_scheduler('DDIMScheduler', {'num_train_timesteps': 1000}, '.'); "
        "sys.exit(any(name.startswith('scipy') for name in set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=300).returncode == 0
