"""Checkpoints of the published layout become artifacts whose outputs are the goldens'; all others are refused."""

from __future__ import annotations

import json
import os

import pytest
import torch
from mmseg.structures import SegDataSample
from safetensors.torch import load_file

from perception.convert import convert_checkpoint
from perception.depth.net import DepthNet
from perception.errors import UserError
from perception.segmentation.referring import ReferringNet
from perception.training.export.mmseg_model import SegmentationModel

KINDS = ("seg", "refer", "depth")


@pytest.fixture
def convert(tiny_sd, tmp_path):
    """Function (kind, file) -> (artifact folder, report)."""

    def run(kind, file, **options):
        out = tmp_path / "artifacts" / kind
        return out, convert_checkpoint(f"vpd-{kind}", file, out, backbone=str(tiny_sd), **options)

    return run


def images(value):
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [0, 1], contiguous."""
    return value.permute(0, 3, 1, 2).contiguous().float() / 255


def assert_close(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def test_semantic(checkpoint, convert, golden):
    tensors, _, config = golden("seg")
    out, report = convert("seg", checkpoint("seg"))
    assert len(report.dropped) == 12 + 4  # buffers of the schedule, the denoiser's last norm and convolution
    assert f"{config['K']} classes, numbered" in report.note
    model = SegmentationModel.from_pretrained(out)
    assert len(model.classes) == config["K"]
    with torch.inference_mode():
        logits = model(images(tensors["image_u8"]))
    assert_close(logits[..., :: config["sub"], :: config["sub"]], tensors["logits"], 2e-5)


def test_semantic_model_is_tested_as_published(checkpoint, convert, golden):
    """Sliding windows, as tools/test.py runs the folder's model; the fixture's window in the place of 512 x 512."""
    tensors, _, config = golden("seg")
    out, _ = convert("seg", checkpoint("seg"))
    model = json.loads((out / "config.json").read_text())["model"]
    assert model["test_cfg"] == {"mode": "slide", "crop_size": [512, 512], "stride": [341, 341]}
    window = [config["base"]] * 2
    model["test_cfg"].update(crop_size=window, stride=[config["stride"]] * 2)
    for place in (model["data_preprocessor"], model["data_preprocessor"]["test_cfg"]):
        assert place["size"] == [512, 512]
        place["size"] = window
    converted = SegmentationModel.from_pretrained(out, model=model)
    assert converted.tested_side == config["base"]
    picture = tensors["slide_image_u8"][0].flip(-1).permute(2, 0, 1)  # BGR, as data sets give it
    sample = SegDataSample(metainfo={"ori_shape": tuple(config["ori"]), "img_shape": tuple(picture.shape[1:])})
    with torch.inference_mode():
        (found,) = converted.segmentor.test_step({"inputs": [picture.contiguous()], "data_samples": [sample]})
    probability = found.seg_logits.data.softmax(0)[None]
    assert_close(probability[..., :: config["sub"], :: config["sub"]], tensors["slide_prob"], 2e-5)
    best, second = probability.topk(2, dim=1).values.unbind(1)
    assert not ((found.pred_sem_seg.data != tensors["slide_pred"]) & (best - second >= 1e-5)).any()


def test_referring(checkpoint, convert, golden):
    tensors, _, config = golden("refer")
    out, report = convert("refer", checkpoint("refer"))
    assert report.note == f"sentences of {config['L']} tokens"
    network = ReferringNet.from_pretrained(out).eval()
    with torch.inference_mode():
        features = network.vpd(images(tensors["image_u8"]), config["sents"][: config["n"]])
        logits = network.decoder(features)
    assert_close(logits, tensors["logits_low"], 2e-5)


def test_depth(checkpoint, convert, golden):
    tensors, weights, config = golden("depth")
    out, report = convert("depth", checkpoint("depth"))
    assert report.note == f"{len(weights['encoder.class_embeddings'])} rooms"
    network = DepthNet.from_pretrained(out).eval()
    network.head.max_depth = config["max_depth"]  # no checkpoint tells it
    picture = images(tensors["image_u8_half"][:1].repeat_interleave(2, 1).repeat_interleave(2, 2))
    with torch.inference_mode():
        depth = network(picture, tensors["class_ids"][:1].tolist())
    assert_close(depth[0, :, :: config["sub"], :: config["sub"]], tensors["pred_d"][0], 2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_that_does_not_fit_is_listed(checkpoint, convert, kind):
    head = {"seg": "neck.fpn_convs.2.conv.bias", "refer": "classifier.bn1_3.bias", "depth": "last_layer_depth.2.bias"}
    prefix = "encoder." if kind == "depth" else ""
    missing = [f"{prefix}unet.unet.diffusion_model.input_blocks.4.1.norm.bias", head[kind]]
    shapeless = [f"{prefix}gamma", f"{prefix}encoder_vq.quant_conv.weight"]

    def spoil(weights):
        for name in missing:
            weights[f"{name}.moved"] = weights.pop(name)
        for name in shapeless:
            weights[name] = weights[name][:-1]

    with pytest.raises(UserError, match="does not hold the tensors of a vpd-") as caught:
        convert(kind, checkpoint(kind, spoil))
    text = str(caught.value)
    assert f"missing: {', '.join(sorted(missing))}; unexpected: " in text
    assert f"unexpected: {', '.join(sorted(f'{name}.moved' for name in missing))}; mis-shaped: " in text
    for name in shapeless:
        assert f"{name} is [" in text.partition("mis-shaped: ")[2]
    assert text.count("\n") == 0


def test_sizes_follow_the_majority(checkpoint, convert, golden):
    out, width = golden("refer")[1]["classifier.conv1_3.weight"].shape[:2]

    def spoil(weights):
        weights["classifier.conv1_3.weight"] = weights["classifier.conv1_3.weight"][:-1]

    found = rf"classifier\.conv1_3\.weight is \[{out - 1}, {width}, 3, 3\], expected"
    with pytest.raises(UserError, match=rf"\(mis-shaped: {found}"):
        convert("refer", checkpoint("refer", spoil))


@pytest.mark.parametrize(("asked", "found"), [("seg", "depth"), ("refer", "seg"), ("depth", "refer")])
def test_another_task(checkpoint, convert, asked, found):
    with pytest.raises(UserError, match=rf"is a checkpoint of vpd-{found} \(it holds .*\), not of vpd-{asked}; use `"):
        convert(asked, checkpoint(found))


def test_another_autoencoder(checkpoint, convert):
    def spoil(weights):
        weights["encoder_vq.encoder.conv_in.weight"] = weights["encoder_vq.encoder.conv_in.weight"] * 1.01

    pattern = r"another autoencoder than that of .* \(different: encoder_vq.encoder.conv_in.weight\); name the Stable"
    with pytest.raises(UserError, match=pattern):
        convert("refer", checkpoint("refer", spoil))


def test_half_precision_is_the_same_autoencoder(checkpoint, convert):
    def halve(weights):
        weights.update({k: v.half() for k, v in weights.items() if v.is_floating_point()})

    out, report = convert("refer", checkpoint("refer", halve))
    assert report.dropped
    assert load_file(out / "model.safetensors")["encoder.adapter.gamma"].dtype == torch.float32


def test_class_names(checkpoint, convert, golden):
    count = golden("seg")[2]["K"]
    names = [f"thing {i}" for i in range(count)]
    with pytest.raises(UserError, match=f"{count + 1} class names were given, but the checkpoint has {count} classes"):
        convert("seg", checkpoint("seg"), classes=[*names, "more"])
    with pytest.raises(UserError, match="a referring checkpoint has no classes"):
        convert("refer", checkpoint("refer"), classes=names)
    out, report = convert("seg", checkpoint("seg"), classes=names)
    assert report.note == f"{count} classes"
    config = json.loads((out / "config.json").read_text())
    assert config["classes"] == names
    assert len({tuple(colour) for colour in config["palette"]}) == count


def test_refusals_leave_nothing(checkpoint, convert, tmp_path):
    with pytest.raises(UserError):
        convert("seg", checkpoint("refer"))
    file = checkpoint("refer", lambda weights: weights.pop("gamma"))
    with pytest.raises(UserError, match=r"\(missing: gamma\)"):
        convert("refer", file)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match="is truncated or no PyTorch checkpoint"):
        convert("refer", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refer.pth"]


def test_existing_folders_are_kept(checkpoint, convert):
    out, _ = convert("refer", checkpoint("refer"))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists already; choose another output folder or delete it"):
        convert("refer", checkpoint("refer"))
    assert (out / "model.safetensors").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
