"""Parity of the shipped semantic VPD with the reference: every tensor of the seg fixtures, gradients and all tests.

The model is that of configs/vpd/vpd_sd15_ade20k.py on the tiny backbone with the fixture's classes, widths and windows.
"""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones.ldm_names import with_shape
from perception.convert.layouts import LAYOUTS
from perception.training.config.channels import with_channels
from perception.training.config.load import load_config
from perception.training.models.features import VPDFeatures
from perception.training.registry import MODELS

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parents[1] / "goldens")
FILES = [p for p in sorted((ROOT / "vpd").glob("seg*.safetensors")) if not p.stem.endswith("_weights")]
CONFIG = "configs/vpd/vpd_sd15_ade20k.py"


def test_there_is_a_fixture():
    assert FILES, f"no seg*.safetensors in {ROOT / 'vpd'}"


def error(actual, golden):
    """max |difference| / max |golden|."""
    assert actual.shape == golden.shape
    return ((actual.detach() - golden).abs().max() / golden.abs().max().clamp(min=1e-30)).item()


def segmentor(golden, weights, options):
    """The shipped model with the fixture's sizes, read off its shapes and options, and its weights."""
    shipped = load_config(CONFIG)
    model = shipped.model.to_dict()
    classes = len(weights["decode_head.conv_seg.weight"])
    names = [f"class {i}" for i in range(classes)]
    plain = VPDFeatures(str(ROOT / "tiny-sd"), names=names, map_strides=())
    places = options.get("attn_selector", "up_cross+down_cross").split("+")
    model["backbone"] |= {
        "name": str(ROOT / "tiny-sd"),
        "names": names,
        "templates": ["{}"],
        "adapter": "gamma" in weights,
        "adapter_hidden": len(weights["text_adapter.fc.0.weight"]),
        "map_strides": [
            stride
            for i, (stride, width) in enumerate(zip(plain.strides, plain.channels, strict=True))
            if golden[f"feat{i}"].shape[1] == width + classes
        ],
        "map_places": [place.removesuffix("_cross") for place in places],
    }
    model["neck"]["out_channels"] = len(weights["neck.lateral_convs.0.conv.weight"])
    model["decode_head"] |= {"channels": weights["decode_head.conv_seg.weight"].shape[1], "num_classes": classes}
    window = (options["base"], options["base"])
    model["data_preprocessor"] |= {"size": window, "test_cfg": {"size": window}}
    model["test_cfg"] = {"mode": "slide", "crop_size": window, "stride": (options["stride"], options["stride"])}
    built = MODELS.build(ConfigDict(with_channels(model)))
    names = LAYOUTS["vpd-seg"].names(built.state_dict())  # ours -> the reference's
    own = {ours: weights[name] for ours, name in names.items() if ".vpd.unet." not in ours}
    assert set(own) == {name for name in built.state_dict() if ".vpd.unet." not in name}
    assert {names[ours] for ours in own} == set(weights)
    built.load_state_dict({**built.state_dict(), **own})
    return built.eval(), names, shipped


def batch(pictures, size, labels=None, **meta):
    """uint8 RGB pictures [B, H, W, 3] as our data sets give them: BGR [3, H, W], and samples of original `size`."""
    meta |= {"ori_shape": tuple(size), "img_shape": pictures.shape[1:3], "img_path": "picture.png"}
    samples = [SegDataSample(metainfo=meta) for _ in pictures]
    for sample, truth in zip(samples, [] if labels is None else labels, strict=labels is not None):
        sample.gt_sem_seg = PixelData(data=truth.long())
    return {"inputs": [p.flip(-1).permute(2, 0, 1).contiguous() for p in pictures], "data_samples": samples}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request):
    """Golden tensors, the segmentor with the golden weights, its inputs, and one loss with its gradients."""
    golden = load_file(request.param)
    weights = load_file(request.param.with_name(f"{request.param.stem}_weights.safetensors"))
    with safe_open(request.param, "pt") as file:
        options = json.loads(file.metadata()["config"])
    model, names, shipped = segmentor(golden, weights, options)
    size = golden["image_u8"].shape[1:3]
    data = model.data_preprocessor(batch(golden["image_u8"], size, golden["gt"]), training=True)
    images = data["inputs"]
    losses = model(**data, mode="loss")
    model.parse_losses(losses)[0].backward()
    grads = {names[n]: p.grad for n, p in model.named_parameters() if n in names}
    model.zero_grad()
    return SimpleNamespace(**locals())


def thinned(probabilities, options):
    """Every so-manieth pixel."""
    return probabilities[..., :: options["sub"], :: options["sub"]]


@torch.no_grad()
def test_features_neck_and_head(case):
    golden, model = case.golden, case.model
    vpd = model.backbone.vpd
    assert error(vpd.encode(case.images), golden["latents"]) < 2e-5
    assert error(vpd.told(None, len(case.images)).hidden, golden["text"]) < 1e-6
    features = model.backbone(case.images)
    levels = model.neck(features)
    assert len(features) == sum(name.startswith("feat") for name in golden)
    assert len(levels) == sum(name.startswith("neck") for name in golden)
    for i, (feature, level) in enumerate(zip(features, levels, strict=True)):
        assert error(feature, golden[f"feat{i}"]) < 2e-5
        assert error(level, golden[f"neck{i}"]) < 2e-5
    assert error(model.decode_head(levels), golden["head_logits"]) < 2e-5
    meta = [{"img_shape": case.images.shape[-2:]}] * len(case.images)
    assert error(thinned(model.encode_decode(case.images, meta), case.options), golden["logits"]) < 2e-5


def test_loss_and_accuracy(case):
    assert case.losses["decode.loss_ce"].item() == pytest.approx(case.golden["loss_ce"].item(), rel=1e-5)
    assert case.losses["decode.acc_seg"].item() == pytest.approx(case.golden["acc_seg"].item(), abs=1e-3)


def test_maps_carry_no_gradient(case):
    """With the map channels alone as the loss, neither the denoiser nor the text gets a gradient."""
    vpd, reached = case.model.backbone.vpd, set()
    trained = [p for p in vpd.parameters() if p.requires_grad]
    for feature, stride in zip(vpd(case.images), vpd.strides, strict=True):
        if stride in vpd.map_layers:
            maps = feature[:, -vpd.conditioning.tokens :]
            found = torch.autograd.grad(maps.sum(), trained, retain_graph=True, allow_unused=True)
            reached |= {grad is not None and bool(grad.any()) for grad in found}
    assert (True in reached) == bool(case.golden["maps_have_grad"])


def test_gradients(case):
    names = [key for key in case.golden if key.startswith("grad.")]
    assert names
    for key in names:
        golden = case.golden[key]
        assert error(with_shape(case.grads[key.removeprefix("grad.")], golden.shape), golden) < 2e-4, key


def test_norms_of_all_gradients(case):
    norms = json.loads(case.request.param.with_name(f"{case.request.param.stem}_grad_norms.json").read_text())
    trained = {name for name, (_, norm) in norms.items() if norm >= 0}
    assert {name for name, grad in case.grads.items() if grad is not None} == trained
    noise = 1e-6 * max(norms[name][1] for name in trained)  # gradients that cancel exactly are rounding noise
    for name in trained:
        shape, norm = norms[name]
        assert with_shape(case.grads[name], shape).shape == torch.Size(shape)
        assert case.grads[name].norm().item() == pytest.approx(norm, rel=2e-4, abs=noise), name


def test_groups_of_the_shipped_optimizer(case):
    """Rate and decay of every trained parameter of the model, under the rule of the shipped config."""
    titles = json.loads(case.request.param.with_name(f"{case.request.param.stem}_param_groups.json").read_text())
    wanted = {}
    for title, members in titles.items():
        if "trainable=False" not in title:
            rate, decay = (float(re.search(rf"\b{key}=([0-9.e+-]+)", title)[1]) for key in ("lr", "wd"))
            wanted |= dict.fromkeys(members, (rate, decay))
    peak, most = (max(values) for values in zip(*wanted.values(), strict=True))
    wrapper = case.shipped.optim_wrapper.to_dict()
    wrapper["optimizer"] |= {"lr": peak, "weight_decay": most}
    ours = {p: case.names[name] for name, p in case.model.named_parameters() if p.requires_grad}
    found = {
        ours[p]: (group["lr"], group["weight_decay"])
        for group in build_optim_wrapper(case.model, wrapper).optimizer.param_groups
        for p in group["params"]
    }
    assert found.keys() == {name for name, grad in case.grads.items() if grad is not None}  # the rest is never run
    assert all(numbers == pytest.approx(wanted[name], rel=1e-9) for name, numbers in found.items())


def probabilities(model, data):
    """Softmax at the original size [1, classes, H, W], and the predicted classes [1, H, W]."""
    (sample,) = model.test_step(copy.deepcopy(data))
    return sample.seg_logits.data.softmax(0)[None], sample.pred_sem_seg.data


def wrong_pixels(probability, prediction, golden):
    """Pixels decided otherwise than the golden although the best two classes differ by 1e-5 or more."""
    best, second = probability.topk(2, dim=1).values.unbind(1)
    return int(((prediction != golden) & (best - second >= 1e-5)).sum())


@torch.no_grad()
def test_sliding_windows(case):
    golden = case.golden
    found, labels = probabilities(case.model, batch(golden["slide_image_u8"], case.options["ori"]))
    assert error(thinned(found, case.options), golden["slide_prob"]) < 2e-5
    assert wrong_pixels(found, labels, golden["slide_pred"]) == 0


@torch.no_grad()
def test_whole_image(case, monkeypatch):
    monkeypatch.setitem(case.model.test_cfg, "mode", "whole")
    found, _ = probabilities(case.model, batch(case.golden["image_u8"][:1], case.options["ori"]))
    assert error(thinned(found, case.options), case.golden["whole_prob"]) < 2e-5


@torch.no_grad()
def test_several_scales_and_mirror_images(case):
    golden, size = case.golden, case.options["ori"]
    views = []
    for pictures in (golden["slide_image_u8"], golden["tta_image2_u8"]):
        views += [batch(pictures, size), batch(pictures.flip(2), size, flip=True, flip_direction="horizontal")]
    found = torch.stack([probabilities(case.model, view)[0] for view in views]).mean(0)
    assert error(thinned(found, case.options), golden["tta_prob"]) < 2e-5
    best, second = found.topk(2, dim=1).values.unbind(1)
    assert (best - second).min().item() == pytest.approx(golden["tta_margin_min"].item(), abs=1e-5)
    merged = {key: [view[key] for view in views] for key in ("inputs", "data_samples")}
    (sample,) = SegTTAModel(case.model).test_step(merged)
    assert wrong_pixels(found, sample.pred_sem_seg.data, golden["tta_pred"]) == 0
