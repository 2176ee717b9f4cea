"""Parity of both trainings of the style swap with the reference: items of the data set, losses, gradients, steps."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from dginstyle_goldens import FOLDER, ROOT, cases, documents
from dginstyle_quirks import label_statistics
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from perception.backbones import Condition, load_backbone
from perception.data.street_sets import gta_images
from perception.generation import CITYSCAPES, new_control
from perception.generation.crops import centre_box, class_box, random_box
from perception.generation.datasets import control_item
from perception.generation.labels import Vocabulary, class_counts, one_hot
from perception.generation.sampling import LabelCounts, RareClassSampler, class_probabilities, read_statistics
from perception.generation.scenes import sample_latents
from perception.generation.training import ControlTraining, SourceTraining

RESIDUALS, PROBABILITIES = 2e-5, 1e-6  # absolute, of the README


DATASET = cases("dataset_*.safetensors")
TRAIN_CONTROL = cases("train_controlnet*.safetensors")
TRAIN_SOURCE = cases("train_dreambooth*.safetensors")


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(ROOT / "tiny-sd", device="cpu")


@pytest.fixture
def control(backbone):
    """The trunk of the denoiser with the stored embedding and projections; trainable."""
    (weights,) = (load_file(path) for path in FOLDER.glob("*_weights.safetensors"))
    channels = weights["controlnet_cond_embedding.conv_in.weight"].shape[1]
    sizes = [weights["controlnet_cond_embedding.conv_in.weight"].shape[0]]
    sizes += [value.shape[0] for key, value in sorted(weights.items()) if key.endswith(("s.1.weight", "s.3.weight"))
              and "cond_embedding" in key]  # fmt: skip
    sizes += [weights["controlnet_cond_embedding.conv_out.weight"].shape[1]]
    model = new_control(backbone, channels, tuple(sizes))
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model.eval()


def _check_close(actual, expected, atol):
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "config"), documents("rcs*.json").items())
def test_rare_class_sampling(name, config):
    statistics = read_statistics(config["sample_class_stats"])
    for temperature, expected in config["probs"].items():
        classes, probabilities = class_probabilities(statistics, float(temperature))
        assert list(classes) == expected["classes"]
        np.testing.assert_allclose(probabilities, expected["p"], rtol=0, atol=PROBABILITIES)
    chosen = config["selection"]
    sampler = RareClassSampler(statistics, chosen["T"], chosen["min_pixels"])
    found = sampler.select(chosen["n"], np.random.RandomState(chosen["seed"]))
    assert [list(pair) for pair in found] == chosen["list"]
    assert sorted(f"{label}_{Path(file).name}" for file, label in found) == chosen["copied_labels"]


@pytest.mark.parametrize("name", DATASET)
def test_training_items(backbone, name):
    tensors, config = DATASET[name]
    root = FOLDER / name.removeprefix("dataset_")
    pairs = {pair.labels.name: pair for pair in gta_images(root)}
    statistics = json.loads((root / "stats.json").read_text())
    streams = {}
    for item in config["items"]:
        key = f"{item['mode']}{item['k']}"
        # "random.seed(3); np.random.seed(4) before each mode"
        numbers = [int(part.split(")")[0]) for part in config["item_seeds"].split("seed(")[1:]]
        plain, legacy = streams.setdefault(item["mode"], (random.Random(numbers[0]), np.random.RandomState(numbers[1])))
        pair = sorted(pairs.values(), key=lambda p: p.stem)[item["k"]]
        size = (config["resolution"],) * 2
        if item["mode"] == "rcs":
            sampler = RareClassSampler(read_statistics(statistics["sample_class_stats"]))
            file, label = sampler(legacy)
            pair = pairs[Path(file).name]
        labels = np.array(Image.open(pair.labels))
        if item["mode"] == "rcs":
            box = class_box(labels, label, size, plain.randrange, tries=1)
        else:
            box = centre_box(labels.shape, size)
            if item["mode"] == "random":
                box = random_box(labels.shape, size, plain.randrange)
        found = control_item(Image.open(pair.image).convert("RGB"), labels, box, CITYSCAPES.names)
        _check_close(found.image * 2 - 1, tensors[f"{key}_pixel_values"], 1e-6)
        encoded = one_hot(found.labels, len(CITYSCAPES))
        assert torch.equal(encoded.argmax(0).byte(), tensors[f"{key}_label"])
        assert found.text == item["text"]
        assert label_statistics(found.labels, CITYSCAPES.names) == item["label_stats"]
        ids = backbone.tokenizer([found.text], padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert torch.equal(ids[0], tensors[f"{key}_input_ids"])


@pytest.mark.parametrize("name", DATASET)
def test_statistics(name):
    root = FOLDER / name.removeprefix("dataset_")
    stored = json.loads((root / "stats.json").read_text())["sample_class_stats"]
    assert [LabelCounts(row["file"], dict(read_statistics([row])[0].pixels)) for row in stored] == [
        LabelCounts(row.file, dict(row.pixels)) for row in _counted(root, stored)
    ]


def _counted(root, stored):
    return [LabelCounts(row["file"], class_counts(np.array(Image.open(root / row["file"])), 19)) for row in stored]


def _batch(backbone, tensors, prefix=""):
    """Clean latents, timesteps, noise and text of a stored batch."""
    pixels = tensors[f"{prefix}pixel_values"] / 2 + 0.5
    latents = sample_latents(backbone, pixels, tensors[f"{prefix}vae_noise"])
    text = Condition(backbone.text_encoder(tensors[f"{prefix}input_ids"])[0])
    return latents, tensors[f"{prefix}timesteps"], tensors[f"{prefix}noise"], text


def _check_updated(module, tensors, gradients):
    """Where every gradient is above 1e-5, 99.9 % of the elements within 1e-6; all others less than half a step off.

    AdamW divides a gradient by its own size, so rounding decides the steps of gradients that are rounding themselves:
    those below 1e-5 move by up to 3e-4 when nothing but the number of threads changes.
    """
    named = dict(module.named_parameters())
    stored = {key.removeprefix("updated."): value for key, value in tensors.items() if key.startswith("updated.")}
    difference = torch.cat([(named[key].detach() - value).abs().flatten() for key, value in stored.items()])
    least = torch.cat([torch.stack([step[key] for step in gradients]).amin(0).flatten() for key in stored])
    assert (least > 1e-5).float().mean() > 0.1
    assert (difference[least > 1e-5] <= 1e-6).float().mean() >= 0.999
    assert difference.max() <= 5e-4


def _gradients(module):
    return {name: p.grad.abs().clone() for name, p in module.named_parameters()}


def _optimizer(module, config):
    trained = [p for p in module.parameters() if p.requires_grad]
    return trained, torch.optim.AdamW(trained, config["lr"], betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)


@pytest.mark.parametrize("name", TRAIN_CONTROL)
def test_control_training(backbone, control, name):
    tensors, config = TRAIN_CONTROL[name]
    training = ControlTraining(backbone, control)
    trained, optimizer = _optimizer(training, config)
    gradients = []
    for step in range(config["steps"]):
        inputs = _batch(backbone, tensors, f"s{step}_")
        labels = tensors[f"s{step}_label"].clone()
        images = [nn.functional.one_hot(labels.long().clamp(max=19), 20).movedim(-1, 1).float()]
        with torch.no_grad():
            _check_close(training.predict(*inputs, images), tensors[f"s{step}_pred"], RESIDUALS)
        loss = training(*inputs, images)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        assert loss.item() == pytest.approx(config["loss"][step], abs=1e-5)
        assert norm.item() == pytest.approx(config["grad_norm"][step], rel=1e-4)
        gradients.append(_gradients(control))
        optimizer.step()
        optimizer.zero_grad()
    _check_updated(control, tensors, gradients)
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", TRAIN_SOURCE)
def test_source_training(backbone, name):
    tensors, config = TRAIN_SOURCE[name]
    before = backbone.fingerprint, backbone.unet.conv_in.weight.clone()
    training = SourceTraining(backbone)
    inputs = _batch(backbone, tensors)
    told = backbone.condition([config["prompt"]])
    _check_close(told.hidden.expand_as(inputs[3].hidden), inputs[3].hidden, RESIDUALS)
    trained, optimizer = _optimizer(training, config)
    _check_close(training.predict(*inputs), tensors["pred"], RESIDUALS)
    loss = training(*inputs)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained, 1.0)
    assert loss.item() == pytest.approx(config["loss"], abs=1e-5)
    assert norm.item() == pytest.approx(config["grad_norm"], rel=1e-4)
    gradients = [_gradients(training.unet)]
    optimizer.step()
    _check_updated(training.unet, tensors, gradients)
    assert torch.equal(before[1], backbone.unet.conv_in.weight)


@pytest.mark.parametrize(("name", "stored"), documents("*keys.json").items())
def test_layout_of_the_published_control_network(name, stored):
    from diffusers import ControlNetModel

    config = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["config"].items()}
    with torch.device("meta"):
        model = ControlNetModel(**config)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == stored["keys"]
    assert Vocabulary(CITYSCAPES.names).channels == config["conditioning_channels"]
