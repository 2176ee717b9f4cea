"""Parity of the referring network with VPD's: every tensor of the refer fixtures, gradients and evaluation included."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones import load_backbone
from perception.backbones.ldm_names import unet_ldm_names, with_shape
from perception.data.images import image_tensor
from perception.metrics import ReferringMetrics
from perception.segmentation.referring import ReferringNet, referring_loss

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parents[1] / "goldens")
FILES = [p for p in sorted((ROOT / "vpd").glob("refer*.safetensors")) if not p.stem.endswith("_weights")]
UNET = "unet.unet.diffusion_model."
PARTS = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}  # layer of a decoder stage by the reference's name


def test_there_is_a_fixture():
    assert FILES, f"no refer*.safetensors in {ROOT / 'vpd'}"


def our_name(name):
    """The reference's name of a head or adapter weight -> ours."""
    if match := re.fullmatch(r"classifier\.(\w+)_(\d)\.(.+)", name):
        part, stage, rest = match.groups()
        return f"decoder.classifier.{rest}" if stage == "1" else f"decoder.stages.{4 - int(stage)}.{PARTS[part]}.{rest}"
    return f"encoder.adapter.{name.removeprefix('text_adapter.')}"


def error(actual, golden):
    """max |difference| / max |golden|."""
    assert actual.shape == golden.shape
    return ((actual.detach() - golden).abs().max() / golden.abs().max().clamp(min=1e-30)).item()


def thinned(full, golden):
    """`full` at every k-th entry of each dimension, so that it has the golden's shape."""
    for axis, (size, wanted) in enumerate(zip(full.shape, golden.shape, strict=True)):
        step = next(k for k in range(1, size + 1) if -(-size // k) == wanted)
        full = full.index_select(axis, torch.arange(0, size, step))
    return full


def sentence_of(tokenizer, ids, known):
    """A string that is tokenized to exactly these ids."""
    for text in [tokenizer.decode(ids, skip_special_tokens=True), *known]:
        again = tokenizer(text, padding="max_length", max_length=len(ids), truncation=True)["input_ids"]
        if again == ids.tolist():
            return text
    raise AssertionError(f"no sentence has the ids {ids.tolist()}")


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request):
    """Golden tensors, the network with the golden weights, its inputs, and one forward and backward pass."""
    golden = load_file(request.param)
    weights = load_file(request.param.with_name(f"{request.param.stem}_weights.safetensors"))
    with safe_open(request.param, "pt") as file:
        known = json.loads(file.metadata()["config"]).get("sents", [])
    backbone = load_backbone(ROOT / "tiny-sd", device="cpu")
    network = network_of(backbone, golden, weights)
    tokenizer = backbone.tokenizer
    images = golden["image_u8"].permute(0, 3, 1, 2).contiguous().float() / 255
    sentences = [sentence_of(tokenizer, ids, known) for ids in golden["input_ids"]]
    features = network.encoder(images, sentences)
    logits = network.decode(features, images.shape[-2:])
    loss = referring_loss(logits, golden["gt"])
    loss.backward()
    grads = gradients(network)
    rows = golden["eval_input_ids"].permute(0, 2, 1)  # [images, sentences, L]
    told = [[sentence_of(tokenizer, ids, known) for ids in image] for image in rows]
    return SimpleNamespace(**locals())


def network_of(backbone, golden, weights):
    """Widths and options read off the shapes of the fixture."""
    length = golden["input_ids"].shape[1]
    plain = ReferringNet(backbone, length=length, map_strides=())
    channels, strides = plain.encoder.channels, plain.encoder.strides
    scales = [s for i, s in enumerate(strides) if golden[f"feat{i}"].shape[1] == channels[i] + length]
    network = ReferringNet(
        backbone,
        length=length,
        truncate=True,
        adapter="gamma" in weights,
        latent_scale=1.0,
        map_strides=scales,
        train="denoiser",
        hidden=weights["classifier.conv1_1.weight"].shape[1],
    )
    ours = {our_name(name): value for name, value in weights.items()}
    missing, unexpected = network.load_state_dict({**network.state_dict(), **ours})
    assert not missing and not unexpected
    trained = {name for name in network.state_dict() if not name.startswith("encoder.unet.")}
    assert trained == set(ours)
    return network.eval()


def gradients(network):
    """The reference's parameter name -> gradient."""
    own = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    denoiser = {n.removeprefix("encoder.unet."): g for n, g in own.items() if n.startswith("encoder.unet.")}
    ldm = unet_ldm_names(network.vpd.backbone.unet.state_dict())
    found = {UNET + ldm[name]: grad for name, grad in denoiser.items()}
    return found | {name: grad for name, grad in own.items() if not name.startswith("encoder.unet.")}


def test_text(case):
    ids = case.golden["input_ids"]
    assert error(case.backbone.text_encoder(ids)[0], case.golden["l_feats"]) < 1e-6
    tokens = case.network.vpd.conditioning(case.sentences)
    assert error(tokens, case.golden["l_feats"]) < 1e-6
    assert error(case.network.vpd.adapter(tokens), case.golden["text"]) < 1e-6


def test_features_and_logits(case):
    assert error(case.network.vpd.encode(case.images), case.golden["latents"]) < 2e-5
    for i, feature in enumerate(case.features):
        assert error(feature, case.golden[f"feat{i}"]) < 2e-5
    assert error(case.network.decoder(case.features), case.golden["logits_low"]) < 2e-5
    assert error(thinned(case.logits, case.golden["logits"]), case.golden["logits"]) < 2e-5
    assert torch.equal(case.network(case.images, case.sentences), case.logits)


def wrong_pixels(logits, masks):
    """Pixels decided otherwise than the golden although the two classes differ by 1e-5 or more."""
    clear = (logits[:, 0] - logits[:, 1]).abs() >= 1e-5
    return int(((logits.argmax(1) != masks) & clear).sum())


def test_mask_and_loss(case):
    assert wrong_pixels(case.logits, case.golden["mask"]) == 0
    assert case.loss.item() == pytest.approx(case.golden["loss"].item(), rel=1e-5)


def test_gradients(case):
    names = [key for key in case.golden if key.startswith("grad.")]
    assert names
    for key in names:
        name = key.removeprefix("grad.")
        grad = case.grads[name if name.startswith("unet.") else our_name(name)]
        assert error(thinned(with_shape(grad, case.golden[key].shape), case.golden[key]), case.golden[key]) < 2e-4, key


def test_norms_of_all_gradients(case):
    norms = json.loads(case.request.param.with_name(f"{case.request.param.stem}_grad_norms.json").read_text())
    ours = {name if name.startswith("unet.") else our_name(name): value for name, value in norms.items()}
    trained = {name for name, (_, norm) in ours.items() if norm >= 0}
    assert {name for name, grad in case.grads.items() if grad is not None} == trained
    # gradients that cancel exactly (a bias before a norm) are rounding noise, far below the others
    noise = 1e-6 * max(ours[name][1] for name in trained)
    for name in trained:
        shape, norm = ours[name]
        assert with_shape(case.grads[name], shape).shape == torch.Size(shape)
        assert case.grads[name].norm().item() == pytest.approx(norm, rel=2e-4, abs=noise), name


def test_evaluation(case):
    """All sentences of an image at once, the image encoded once; masks, and every figure of the reference's log."""
    golden, sizes = case.golden, case.golden["eval_targets"].shape[-2:]
    metrics, predictions = ReferringMetrics(), golden["eval_preds"].split(len(case.told[0]))
    for image, told, target, masks in zip(case.images, case.told, golden["eval_targets"], predictions, strict=True):
        logits = case.network.refer(case.network.vpd.encode(image[None]), told, size=sizes)
        assert wrong_pixels(logits, masks) == 0
        metrics = metrics + ReferringMetrics.of(masks, target.expand(len(told), -1, -1))
    found = [metrics.iou_sum / len(case.told), metrics.overall_iou, metrics.mean_iou, *metrics.precision.values()]
    expected = golden["eval"].tolist()  # the first divides by the references; from the third on: two decimals
    assert [100 * value for value in found[:2]] == pytest.approx(expected[:2], rel=1e-6)
    assert [100 * value for value in found[2:]] == pytest.approx(expected[2:], abs=5.001e-3)


def test_transforms(case):
    golden, side = case.golden, case.golden["tf_mask"].shape
    image = image_tensor(
        Image.fromarray(golden["tf_image_u8"].numpy()), tuple(side), fit="squash", interpolation="bilinear"
    )
    assert error(thinned(image * 2 - 1, golden["tf_image"]), golden["tf_image"]) < 1e-6
    mask = Image.fromarray(golden["tf_mask_u8"].numpy()).resize((side[1], side[0]), Image.Resampling.NEAREST)
    assert np.array_equal(mask, golden["tf_mask"])
