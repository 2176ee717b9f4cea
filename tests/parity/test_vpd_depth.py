"""Parity of the depth network with VPD's: every tensor of the depth fixtures, gradients and validation included."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones import load_backbone
from perception.backbones.ldm_names import unet_ldm_names, with_shape
from perception.depth import DepthNet, shift_window_flip, silog_loss
from perception.metrics import DepthMetrics
from perception.metrics.depth import NAMES, NYU_CROP, valid_pixels

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS") or Path(__file__).parents[1] / "goldens")
FILES = [p for p in sorted((ROOT / "vpd").glob("depth*.safetensors")) if not p.stem.endswith("_weights")]
UNET = "encoder.unet.unet.diffusion_model."
DECONVOLUTION = r"decoder\.deconv_layers\.(\d+)\.weight"
TABLE = {  # the reference's prefixes -> ours
    "encoder.layer1.": "head.fine.",
    "encoder.layer2.0.": "head.middle.",
    "encoder.out_layer.": "head.fusion.",
    "decoder.deconv_layers.": "head.deconvolutions.",
    "decoder.conv_layers.": "head.refine.",
    "last_layer_depth.": "head.last.",
    "encoder.gamma": "encoder.adapter.gamma",
    "encoder.text_adapter.": "encoder.adapter.",
    "encoder.class_embeddings": "encoder.conditioning.table",
}


def test_there_is_a_fixture():
    assert FILES, f"no depth*.safetensors in {ROOT / 'vpd'}"


def our_name(name):
    """The reference's name of a weight beside the UNet -> ours."""
    (prefix,) = (prefix for prefix in TABLE if name.startswith(prefix))
    return TABLE[prefix] + name.removeprefix(prefix)


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


def doubled(half):
    """Every pixel of [..., h, w] twice in both directions."""
    return half.repeat_interleave(2, -1).repeat_interleave(2, -2)


def pictures(half_u8):
    """uint8 [B, h, w, 3] at half size -> RGB [B, 3, 2h, 2w] in [0, 1]."""
    return doubled(half_u8.permute(0, 3, 1, 2).contiguous()).float() / 255


def network_of(backbone, weights, config):
    """Widths read off the shapes of the weights."""
    layers = {int(m[1]): w for name, w in weights.items() if (m := re.fullmatch(DECONVOLUTION, name)) and w.dim() == 4}
    layers = [layers[number] for number in sorted(layers)]
    network = DepthNet(
        backbone,
        names=[f"room {i}" for i in range(len(weights["encoder.class_embeddings"]))],
        templates=(),
        adapter="encoder.gamma" in weights,
        latent_scale=1.0,
        train="denoiser",
        max_depth=config["max_depth"],
        fusion_channels=len(weights["encoder.out_layer.0.weight"]),
        num_filters=[w.shape[1] for w in layers],
        deconv_kernels=[w.shape[2] for w in layers],
        decoder_channels=len(weights["decoder.conv_layers.0.weight"]),
    )
    ours = {our_name(name): value for name, value in weights.items()}
    network.load_state_dict({**network.state_dict(), **ours})
    assert {name for name in network.state_dict() if not name.startswith("encoder.unet.")} == set(ours)
    return network.eval()


def gradients(network):
    """Our parameter name (the reference's for the UNet) -> gradient, zeros where there is none."""
    ldm = unet_ldm_names(network.vpd.backbone.unet.state_dict())
    found = {}
    for name, p in network.named_parameters():
        inner = name.removeprefix("encoder.unet.")
        found[name if inner == name else UNET + ldm[inner]] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
    return found


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request):
    """Golden tensors, the network with the golden weights, its inputs, and one forward and backward pass."""
    golden = load_file(request.param)
    stored = load_file(request.param.with_name(f"{request.param.stem}_weights.safetensors"))
    weights = {name: w.float() if w.is_floating_point() else w for name, w in stored.items()}
    with safe_open(request.param, "pt") as file:
        config, order = (json.loads(file.metadata()[key]) for key in ("config", "metric_order"))
    network = network_of(load_backbone(ROOT / "tiny-sd", device="cpu"), weights, config)
    images, rooms = pictures(golden["image_u8_half"]), golden["class_ids"].tolist()
    target = doubled(golden["gt_f16_half"].float()).unsqueeze(1)
    size = tuple(images.shape[-2:])
    features = network.encoder(network.pad(images), rooms)
    fused = network.head.fuse(features)
    depth = network.head.decode(fused, size)
    loss = silog_loss(depth, target)
    loss.backward()
    grads = gradients(network)
    return SimpleNamespace(**locals())


def test_latents_and_text(case):
    vpd = case.network.vpd
    assert error(vpd.encode(case.network.pad(case.images)), case.golden["latents"]) < 2e-5
    tokens = vpd.conditioning(case.rooms)
    assert error(tokens if vpd.adapter is None else vpd.adapter(tokens), case.golden["text_tokens"]) < 1e-6


def test_features(case):
    for i, feature in enumerate(case.features):
        golden = case.golden[f"feat{i}"]
        assert error(thinned(feature, golden), golden) < 2e-4
    assert error(thinned(case.fused, case.golden["encoder_out"]), case.golden["encoder_out"]) < 2e-4


def test_depth(case):
    decoded = case.network.head.expand(case.fused, case.size)
    assert error(thinned(decoded, case.golden["decoder_out"]), case.golden["decoder_out"]) < 2e-4
    assert error(thinned(case.depth, case.golden["pred_d"]), case.golden["pred_d"]) < 2e-4
    assert case.depth.double().mean((1, 2, 3)).tolist() == pytest.approx(case.golden["pred_d_mean"].tolist(), rel=2e-4)
    assert torch.equal(case.network(case.images, case.rooms), case.depth)


def test_losses(case):
    assert case.loss.item() == pytest.approx(case.golden["silog_loss"].item(), rel=1e-5)
    single = [silog_loss(p[None], t[None]).item() for p, t in zip(case.depth, case.target, strict=True)]
    assert single == pytest.approx(case.golden["silog_loss_per_image"].tolist(), rel=1e-5)
    mean = silog_loss(case.depth, case.target, reduction="image").item()
    assert mean == pytest.approx(case.golden["silog_loss_per_image"].mean().item(), rel=1e-5)


def rounding_spread(case, keys, draws=2):
    """Largest change of each gradient when the features move as far as the reference's float32 features lie from ours.

    The loss passes ReLUs on every pixel, so its gradients magnify rounding; float64 is as far from the golden.
    """
    spread = dict.fromkeys(keys, 0.0)
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        case.network.zero_grad()
        moved = []
        for i, feature in enumerate(case.network.encoder(case.network.pad(case.images), case.rooms)):
            golden = case.golden[f"feat{i}"]
            distance = (thinned(feature.detach(), golden) - golden).square().mean().sqrt()
            moved.append(feature + distance * torch.randn(feature.shape, generator=generator))
        silog_loss(case.network.head(moved, case.size), case.target).backward()
        found = gradients(case.network)
        for key in keys:
            change = error(golden_entries(found, case.golden, key), golden_entries(case.grads, case.golden, key))
            spread[key] = max(spread[key], change)
    return spread


def golden_entries(grads, golden, key):
    """Those entries of our gradient that the golden of this key holds."""
    name = key.removeprefix("grad.")
    grad = grads[name if name.startswith(UNET) else our_name(name)]
    whole = with_shape(grad, golden[key].shape) if grad.dim() != golden[key].dim() else grad
    return thinned(whole, golden[key])


def test_gradients(case):
    names = [key for key in case.golden if key.startswith("grad.")]
    assert names
    spread = rounding_spread(case, names)
    for key in names:
        found = error(golden_entries(case.grads, case.golden, key), case.golden[key])
        assert found < max(2e-4, 3 * spread[key]), key
        assert spread[key] < 1e-2, f"{key}: rounding alone decides this gradient"


def test_validation(case):
    golden, config = case.golden, case.config
    image, target = pictures(golden["val_image_u8_half"]), doubled(golden["val_gt_f16_half"].float())
    assert list(image.shape[-2:]) == config["val_hw"]
    depth = shift_window_flip(case.network, image, case.rooms[:1], count=config["shift"], flip=config["flip"])
    seen, defined = thinned(depth[0, 0], golden["val_pred"]), golden["val_pred"].isfinite()
    assert error(seen[defined], golden["val_pred"][defined]) < 2e-4
    valid = valid_pixels(target, max_depth=config["max_depth"], crop=NYU_CROP)
    assert int(valid.sum()) == golden["val_valid_pixels"]
    height, width = target.shape  # where the reference's windows end, it divides 0 by 0
    covered = height + (config["shift"] - 1) * ((width - height) // max(config["shift"] - 1, 1))
    depth[..., covered:] = torch.nan
    metrics = DepthMetrics.of(depth[0, 0], target, max_depth=config["max_depth"], crop=NYU_CROP)
    check_metrics(case, metrics, golden["val_metrics"])


def test_metrics(case):
    golden = case.golden
    prediction = golden["m_pred"].masked_fill(golden["m_pred"] == -1, torch.nan)
    prediction = prediction.masked_fill(golden["m_pred"] == -2, torch.inf)
    metrics = DepthMetrics.of(prediction, golden["m_gt"], max_depth=case.config["max_depth"], crop=NYU_CROP)
    assert metrics.pixels == golden["m_n"]
    check_metrics(case, metrics, golden["m_out"])


def check_metrics(case, metrics, golden):
    assert set(case.order) == set(NAMES)
    assert [metrics.values[name] for name in case.order] == pytest.approx(golden.tolist(), abs=5e-5)
