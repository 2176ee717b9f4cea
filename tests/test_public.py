"""The public names, and what they say to a path, a picture or None in a tensor's place."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import perception
import perception.classification
from perception.backbones import DiffusionBackbone, FeatureSpec
from perception.classification import ClassifierTransform, DiffusionClassifier, Racing, class_prompts
from perception.classification.matching.matcher import ImageCaptionMatcher
from perception.conditioning import EmptyPrompt, TextAdapter
from perception.data.images import image_tensor
from perception.data.store import TensorStore
from perception.depth import DepthHead, DepthNet, shift_window_flip, silog_loss
from perception.depth.predictor import DepthPredictor
from perception.encoders import VPD, StoredVPD
from perception.errors import UserError
from perception.generation import SceneComposer, preset
from perception.metrics import (
    ClassificationMetrics,
    ClassLoss,
    ComponentRecall,
    ConfusionMatrix,
    DepthMetrics,
    PairScores,
    ReferringMetrics,
)
from perception.segmentation.predictor import SemanticPredictor

NO_TENSORS = {
    "a path": "photos/cat.jpg",
    "a picture": Image.new("RGB", (64, 64)),
    "none": None,
    "an array": np.zeros((64, 64, 3), np.float32),
    "a list": [1.0],
}
NO_PICTURES = {"a path": "photos/cat.jpg", "none": None, "a tensor": torch.zeros(1, 3, 64, 64)}
ONES = torch.ones(2, dtype=torch.int64)
SPEC = FeatureSpec(("latent",))


def test_dir_lists_the_public_names_without_importing_torch():
    for module in (perception, perception.classification):
        assert set(module.__all__) <= set(dir(module))
    code = "import sys, perception; assert 'load_backbone' in dir(perception) and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def classifier(tiny_backbone):
    return DiffusionClassifier(tiny_backbone, class_prompts(["cat", "dog"]), Racing())


BACKBONE = {
    "encode": lambda b, x: b.encode(x),
    "decode": lambda b, x: b.decode(x),
    "unscaled": lambda b, x: b.unscaled(x),
    "noise": lambda b, x: b.noise(x, 5, torch.zeros(1)),
    "noise of": lambda b, x: b.noise(torch.zeros(1, 4, 8, 8), 5, x),
    "denoise": lambda b, x: b.denoise(x, 5, b.condition([""])),
    "capture": lambda b, x: b.capture(x, 5, b.condition([""]), ["latent"]),
    "spread": lambda b, x: b.spread(torch.zeros(1), x),
    "attention_maps": lambda b, x: b.attention_maps(x, 5, b.condition([""])),
    "VPD": lambda b, x: VPD(b, EmptyPrompt(b)).encode(x),
    "matcher": lambda b, x: ImageCaptionMatcher(b, 2)(x, ["a cat"]),
    "matcher of latents": lambda b, x: ImageCaptionMatcher(b, 2).match_latents(x, ["a cat"]),
}
OTHERS = {
    "TextAdapter": TextAdapter(8),
    "silog_loss": lambda x: silog_loss(x, ONES),
    "shift_window_flip": lambda x: shift_window_flip(lambda images, given: images, x),
    "ConfusionMatrix": lambda x: ConfusionMatrix.of(ONES, x, 2),
    "ClassLoss": lambda x: ClassLoss.of(x, ONES, 2),
    "ClassificationMetrics": lambda x: ClassificationMetrics.of(x, ONES, 2),
    "DepthMetrics": lambda x: DepthMetrics.of(x, ONES),
    "PairScores": PairScores.of,
    "ReferringMetrics": lambda x: ReferringMetrics.of(ONES, x),
}


@pytest.mark.parametrize("value", NO_TENSORS.values(), ids=NO_TENSORS)
@pytest.mark.parametrize("call", BACKBONE.values(), ids=BACKBONE)
def test_a_backbone_says_what_stands_in_a_tensors_place(tiny_backbone: DiffusionBackbone, call, value):
    with pytest.raises(UserError, match="; expected a torch tensor: "):
        call(tiny_backbone, value)


@pytest.mark.parametrize("value", NO_TENSORS.values(), ids=NO_TENSORS)
@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
def test_others_say_what_stands_in_a_tensors_place(call, value):
    with pytest.raises(UserError, match="; expected a torch tensor: "):
        call(value)


@pytest.mark.parametrize("value", NO_TENSORS.values(), ids=NO_TENSORS)
def test_classifier_networks_and_store_say_it_too(classifier, tiny_backbone, tmp_path, value):
    network = DepthNet(tiny_backbone, fusion_channels=8, num_filters=(8,), deconv_kernels=(2,), decoder_channels=8)
    store = TensorStore(tmp_path / "store")
    stored = StoredVPD(VPD(tiny_backbone, EmptyPrompt(tiny_backbone)), store)
    calls = [
        lambda x: classifier(x, ["a"]),
        lambda x: classifier.classify_latents(x, ["a"]),
        network,
        stored,
        lambda x: store.put("key", {"x": x}),
        lambda x: DepthHead((8, 8, 8, 8), 8, 8, (8,), (2,), 8)([x] * 4, (64, 64)),
    ]
    for call in calls:
        with pytest.raises(UserError, match="; expected a torch tensor: "):
            call(value)


def test_features_take_images_or_latents(tiny_backbone):
    for value in ("photos/cat.jpg", Image.new("RGB", (64, 64))):
        with pytest.raises(UserError, match=r"inputs is .*; expected a torch tensor: "):
            tiny_backbone.features(value, SPEC)
        with pytest.raises(UserError, match=r"latents is .*; expected a torch tensor: "):
            tiny_backbone.features(None, SPEC, latents=value)


def test_a_prompt_is_no_condition_and_a_word_no_timestep(tiny_backbone):
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match=r"condition is the text or path 'a cat'; expected a Condition: backbone.cond"):
        tiny_backbone.denoise(latents, 5, "a cat")
    with pytest.raises(UserError, match=r"t is None; expected a torch tensor"):
        tiny_backbone.noise(latents, None, latents)


@pytest.mark.parametrize("value", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_takes_pictures_says_it(value):
    class Network:
        classes, image_size, tested_side = ["road"], (64, 64), None

    depth = DepthPredictor.__new__(DepthPredictor)
    for call in (ClassifierTransform(64), image_tensor, SemanticPredictor(Network()), depth):
        with pytest.raises(UserError, match=r"image is .*; expected a PIL image: "):
            call(value)


@pytest.mark.parametrize("value", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_takes_label_maps_says_it(value):
    composer = SceneComposer(preset("exact"))
    for call in (
        lambda x: composer(x, seed=0, sample_id="a"),
        lambda x: ComponentRecall.of(x, np.zeros((4, 4)), {"road": 0}),
    ):
        with pytest.raises(UserError, match=r"labels is .*; expected a NumPy array"):
            call(value)
