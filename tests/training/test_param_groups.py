"""Parameter groups on real models, and the two schedules against the reference's formulas."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from peft import LoraConfig
from torch import nn

from perception.errors import UserError
from perception.training.param_groups import describe, param_groups, poly, rise_and_fall


@pytest.fixture
def model(tiny_sd):
    """A denoiser under any name, and a head with a batch norm."""
    net = nn.Module()
    net.any_name = UNet2DConditionModel.from_pretrained(tiny_sd / "unet")
    net.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    return net


def group_of(groups, parameter):
    found = [group for group in groups if any(value is parameter for value in group["params"])]
    assert len(found) == 1
    return found[0]["lr"], found[0]["weight_decay"]


@pytest.mark.parametrize(
    ("rule", "options", "transformer_norm", "residual_norm", "convolution", "head_norm"),
    [
        ("vpd-seg", {}, (1, 0), (0.1, 1), (0.1, 1), (1, 1)),
        ("vpd-seg", {"quirks": False}, (0.1, 0), (0.1, 0), (0.1, 1), (1, 0)),
        ("vpd-seg", {"unet_lr_scale": 0.5}, (1, 0), (0.5, 1), (0.5, 1), (1, 1)),
        ("vpd-refer", {}, (1, 0), (1, 1), (1, 1), (1, 1)),
        ("vpd-refer", {"quirks": False}, (0.01, 0), (0.01, 0), (0.01, 1), (1, 0)),
        ("vpd-refer", {"unet_lr_scale": 0.01}, (0.01, 0), (0.01, 1), (0.01, 1), (1, 1)),
        ("vpd-depth", {}, (0.01, 0), (0.01, 0), (0.01, 1), (1, 0)),
    ],
)
def test_rules(model, rule, options, transformer_norm, residual_norm, convolution, head_norm):
    groups = param_groups(model, rule, lr=1.0, weight_decay=1.0, **options)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    block = model.any_name.down_blocks[0]
    assert group_of(groups, block.attentions[0].norm.weight) == transformer_norm
    assert group_of(groups, block.resnets[0].norm1.weight) == residual_norm
    assert group_of(groups, block.resnets[0].conv1.weight) == convolution
    assert group_of(groups, model.head[1].weight) == head_norm
    assert group_of(groups, model.head[0].weight) == (1, 1)


def test_frozen_parameters_are_left_out(model):
    model.any_name.requires_grad_(False)
    groups = param_groups(model, "vpd-seg", lr=1.0, weight_decay=1.0)
    assert sum(len(group["params"]) for group in groups) == 4
    model.requires_grad_(False)
    with pytest.raises(UserError, match="every parameter of this model is frozen"):
        param_groups(model, "vpd-seg", lr=1.0, weight_decay=1.0)


def test_lora_matrices_are_new_parameters(model):
    model.any_name.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        model.any_name.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    lora = [parameter for name, parameter in describe(model).items() if ".lora_" in name]
    assert lora
    assert all("unet" not in parameter.name for parameter in lora)
    groups = param_groups(model, "vpd-depth", lr=1.0, weight_decay=1.0)
    assert {group["lr"] for group in groups} == {1.0}


def test_mmengine_builds_it(model):
    config = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 8e-5, "weight_decay": 1e-3},
        "constructor": "VPDParamGroups",
        "paramwise_cfg": {"rule": "vpd-seg"},
    }
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    rates = {(round(g["lr"], 12), g["weight_decay"]): len(g["params"]) for g in groups}
    assert rates.keys() == {(8e-5, 1e-3), (8e-6, 1e-3), (8e-5, 0.0)}
    for wrong in (None, {"rule": "vpd-seg", "norm_decay_mult": 0.0}, {"quirks": True}):
        with pytest.raises(UserError, match=r"VPDParamGroups takes rule, .* found there: "):
            build_optim_wrapper(model, config | {"paramwise_cfg": wrong})
    with pytest.raises(UserError, match="the parameter rule 'vpd' is unknown; choose one of vpd-seg, vpd-refer"):
        build_optim_wrapper(model, config | {"paramwise_cfg": {"rule": "vpd"}})


def test_formulas():
    peak, floor, epochs, length = 5e-4, 3e-5, 5, 4  # the reference's depth schedule, written out
    half = length * (epochs // 2)
    for s in range(1, epochs * length + 1):
        if s < half:
            wanted = (peak - floor) * (s / half) ** 0.9 + floor
        else:
            wanted = max(floor, (floor - peak) * (s / half - 1) ** 0.9 + peak)
        assert peak * rise_and_fall(s, half) == pytest.approx(wanted, rel=1e-12)
    assert [poly(s, 4, 0.5) for s in (0, 3, 4, 5)] == [1.0, 0.5, 0.0, 0.0]


def rates(scheduler, iterations, **options):
    """Learning rates of the two groups at each iteration of a loop as mmengine runs it."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 5e-4}, {"params": [weights[1]], "lr": 5e-6}])
    built = PARAM_SCHEDULERS.build({"type": scheduler, "optimizer": optimizer, **options})
    seen = []
    for _ in range(iterations):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        built.step()
    return torch.tensor(seen, dtype=torch.float64)


def test_schedulers_follow_them():
    epochs, length = 5, 4
    found = rates(
        "RiseAndFallLR", epochs * length, by_epoch=True, end=epochs, convert_to_iter_based=True, epoch_length=length
    )
    wanted = torch.tensor([rise_and_fall(s, 8) for s in range(1, 21)], dtype=torch.float64)
    assert torch.allclose(found, wanted[:, None] * torch.tensor([5e-4, 5e-6], dtype=torch.float64), rtol=1e-9)
    found = rates("RiseAndFallLR", 4, by_epoch=True, end=1, convert_to_iter_based=True, epoch_length=4)
    assert torch.allclose(found[:, 0], 5e-4 * wanted.new_tensor([rise_and_fall(s, 2) for s in range(1, 5)]), rtol=1e-9)
    found = rates("PolyDecayLR", 10, end=10)
    wanted = torch.tensor([poly(s, 10) for s in range(10)], dtype=torch.float64)
    assert torch.allclose(found[:, 0], 5e-4 * wanted, rtol=1e-9)
    found = rates("PolyDecayLR", 10, by_epoch=True, end=5, convert_to_iter_based=True, epoch_length=2)
    assert torch.allclose(found[:, 0], 5e-4 * wanted, rtol=1e-9)
