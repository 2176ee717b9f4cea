"""Parity of the staged classifier with the reference: every tensor and decision of sd_adaptive, whatever runs it holds.

Also the matching fixture (errors of every pair, scores as printed) and the crops of the class-conditional one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from perception.backbones import load_backbone
from perception.classification.classifier import DiffusionClassifier
from perception.classification.matching.matcher import ImageCaptionMatcher
from perception.classification.noise import SharedNoise
from perception.classification.prompts import PromptSet
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.schedules import Exhaustive, FixedSchedule, evaluations
from perception.classification.transforms import AdmTransform, ClassifierTransform
from perception.metrics.classification import ClassificationMetrics
from perception.metrics.matching import PairScores, normalised

ROOT = Path(os.environ.get("PERCEPTION_GOLDENS", Path(__file__).parents[1] / "goldens"))
FOLDER = ROOT / "diffusion_classifier"
RTOL = 1e-5


def _fixtures(pattern):
    """{file stem: (tensors, configuration)} of all files of a kind; finding none is an error."""
    found = {}
    for path in sorted(FOLDER.glob(pattern)):
        with safe_open(path, "pt") as file:
            found[path.stem] = load_file(path), json.loads(file.metadata()["json"])
    assert found, f"no {pattern} in {FOLDER}"
    return found


ADAPTIVE = _fixtures("sd_*.safetensors")
MATCHING = _fixtures("*winoground*.safetensors")
CROPS = [(f, c) for f, (_, config) in _fixtures("dit*.safetensors").items() for c in config["crops"]]
RUNS = [(f, r, i) for f, (_, c) in ADAPTIVE.items() for r, run in c["runs"].items() for i in run["images"]]
TRANSFORMS = [(f, t) for f, (_, c) in ADAPTIVE.items() for t in c["transforms"]]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(ROOT / "tiny-sd", device="cpu")


def _prompts(prompts, classes=None):
    classes = classes or list(range(len(prompts)))
    count = max(classes) + 1
    return PromptSet(tuple(prompts), tuple(classes), tuple(f"c{i}" for i in range(count)), tuple(range(count)))


def _classifier(backbone, config, prompts, rule=None):
    rule = rule or FixedSchedule(tuple(config["n_samples"]), tuple(config["to_keep"]), config.get("n_trials", 1))
    return DiffusionClassifier(backbone, prompts, rule, config["loss"], rows=config.get("batch_size", 8))


def _check_close(actual, expected, rtol=RTOL, atol=0.0):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def _check_map(actual, expected):
    """For values around zero: 1e-5 of their scale."""
    _check_close(actual, expected, atol=RTOL * expected.abs().max().item())


@pytest.mark.parametrize(("name", "case"), TRANSFORMS)
def test_transforms_are_exact(name, case):
    tensors, config = ADAPTIVE[name]
    options, key = config["transforms"][case], f"transform.{case}"
    if options["mode"] == "P":
        image = Image.fromarray(tensors[f"{key}.p_index"].numpy(), "P")
        image.putpalette(tensors[f"{key}.p_palette"].tolist())
    else:
        image = Image.fromarray(tensors[f"{key}.image"].numpy())
    assert (image.height, image.width, image.mode) == (options["h"], options["w"], options["mode"])
    out = ClassifierTransform(options["size"], options["interpolation"])(image)
    assert torch.equal(2 * out - 1, tensors[f"{key}.out"])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_text(backbone, name):
    tensors, config = ADAPTIVE[name]
    ids = backbone.tokenizer(config["prompts"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, tensors["text.input_ids"])
    _check_map(backbone.condition(config["prompts"]).hidden, tensors["text.embeddings"])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_latents_and_noise_path(backbone, name):
    tensors, config = ADAPTIVE[name]
    transform = ClassifierTransform(config["size"])
    for image in config["images"]:
        pixels = transform(Image.fromarray(tensors[f"{image}.pixels"].numpy()))
        _check_map(backbone.encode(pixels[None]), tensors[f"{image}.latent"])
    steps = torch.arange(len(tensors["scheduler.alphas_cumprod"]))
    _check_close(backbone.noise_path.alpha(steps).square(), tensors["scheduler.alphas_cumprod"], rtol=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_probe_of_the_denoiser(backbone, name):
    tensors, config = ADAPTIVE[name]
    noise, t = tensors["probe.noise"], tensors["probe.t"]
    latents = tensors["image0.latent"].expand(len(t), -1, -1, -1)
    x_t = backbone.noise(latents, t, noise)
    _check_map(x_t, tensors["probe.x_t"])
    with torch.inference_mode():
        prediction = backbone.denoise(x_t, t, backbone.condition(config["prompts"][: len(t)]))
    _check_map(prediction.eps, tensors["probe.unet_out"])


@pytest.mark.parametrize(("name", "run", "image"), RUNS)
def test_staged_runs(backbone, name, run, image):
    tensors, config = ADAPTIVE[name]
    options = config["runs"][run]
    expected = options["images"][image]
    classifier = _classifier(backbone, options, _prompts(config["prompts"]))
    noise = SharedNoise(tensors[f"run.{run}.noise"])
    (result,) = classifier.classify_latents(tensors[f"{image}.latent"], [image], noise)
    assert result.candidate == expected["pred"]
    assert [list(alive) for alive in result.alive] == expected["alive_per_stage"]
    assert result.evaluations == expected["unet_evals"]
    assert evaluations(classifier.rule, [1] * len(config["prompts"]), 1000) == expected["unet_evals"]
    _check_queue(tensors, f"run.{run}.{image}", classifier, result)
    _check_candidates(tensors, f"run.{run}.{image}", classifier, result)


def _check_queue(tensors, key, classifier, result):
    """The work queue of each stage: candidates in order, and for each the new samples in order."""
    start = 0
    for stage, block in enumerate(classifier.blocks):
        queue = [(s.timestep, s.index, c) for c in result.alive[stage] for s in block]
        for column, part in enumerate(("t", "noise_idx", "prompt_idx")):
            assert [entry[column] for entry in queue] == tensors[f"{key}.stage{stage}.{part}"].tolist()
        errors = result.table.errors[list(result.alive[stage]), start : start + len(block)]
        _check_close(errors.flatten(), tensors[f"{key}.stage{stage}.error"])
        start += len(block)


def _check_candidates(tensors, key, classifier, result):
    """Everything one candidate has seen, in order."""
    timesteps = torch.tensor([sample.timestep for block in classifier.blocks for sample in block])
    for c in range(len(classifier.candidates)):
        errors = tensors[f"{key}.prompt{c}.errors"]
        assert torch.equal(timesteps[: len(errors)], tensors[f"{key}.prompt{c}.t"])
        _check_close(result.table.row(c), errors)
        assert result.errors[c] == pytest.approx(errors.double().mean().item(), rel=RTOL)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_end_to_end(backbone, name):
    """main(): two templates for some classes, the reference's own noise per image, accuracies to two digits."""
    tensors, whole = ADAPTIVE[name]
    config = whole["main"]
    rows = config["prompts"]
    options = {**config, "n_trials": config["trials"], "batch_size": config["bs"]}
    prompts = _prompts([row["prompt"] for row in rows], [row["classidx"] for row in rows])
    classifier = _classifier(backbone, options, prompts)
    transform = ClassifierTransform(config["size"], config["interp"])
    predictions = []
    for i in range(config["n"]):
        key = f"main.image{i}"
        pixels = transform(Image.fromarray(tensors[f"{key}.pixels"].numpy()))
        _check_map(backbone.encode(pixels[None]), tensors[f"{key}.latent"])
        (result,) = classifier(pixels[None], [str(i)], SharedNoise(tensors[f"{key}.noise"]))
        _check_candidates(tensors, key, classifier, result)
        predictions.append(result.class_id)
    assert predictions == config["preds"]
    classes = 1 + max(*config["labels"], *predictions)
    metrics = ClassificationMetrics.of(torch.tensor(predictions)[:, None], torch.tensor(config["labels"]), classes, k=1)
    top, mean = 100 * metrics.top1, 100 * metrics.mean_per_class
    assert config["print_acc"] == [f"Top 1 acc: {top:.2f}%", f"Mean per class acc: {mean:.2f}%"]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_noise_recipe_of_the_reference(name):
    tensors, config = ADAPTIVE[name]
    for i in range(config["main"]["n"]):
        generator = torch.Generator().manual_seed(config["main"]["seed"] + i)
        noise = tensors[f"main.image{i}.noise"]
        assert torch.equal(torch.randn(noise.shape, generator=generator), noise)


@pytest.mark.parametrize("name", MATCHING)
def test_matching_errors(backbone, name):
    """Every caption with every image on the uniform grid: the exhaustive rule with given noise."""
    tensors, config = MATCHING[name]
    rule = Exhaustive(len(tensors["t"]), config["n_trials"])
    assert np.array_equal([sample.timestep for sample in rule.blocks(1000)[0]][:: config["n_trials"]], tensors["t"])
    for i, example in enumerate(config["examples"]):
        captions = [example["caption_0"], example["caption_1"]]
        classifier = _classifier(backbone, config, _prompts(captions), rule)
        _check_map(classifier.condition.hidden, torch.cat([tensors[f"ex{i}.caption{c}.embedding"] for c in range(2)]))
        _check_images(backbone, tensors, config, classifier, i)


def _check_images(backbone, tensors, config, classifier, example):
    transform = ClassifierTransform(config["size"], config["interpolation"])
    pixels = [Image.fromarray(tensors[f"ex{example}.image{j}.pixels"].numpy()) for j in range(2)]
    latents = torch.cat([tensors[f"ex{example}.image{j}.latent"] for j in range(2)])
    _check_map(backbone.encode(torch.stack([transform(image) for image in pixels])), latents)
    results = classifier.classify_latents(latents, ["0", "1"], SharedNoise(_matching_noise(tensors, config)))
    for j, result in enumerate(results):
        for c in range(2):
            _check_close(result.table.row(c), tensors[f"ex{example}.c{c}_i{j}.errors"].flatten())


def _matching_noise(tensors, config):
    """Sample k takes noise k; without randomize_noise, the noise of its position in the batch of the reference."""
    samples = torch.arange(len(tensors["t"]) * config["n_trials"])
    return tensors["noise"][samples if config["randomize_noise"] else samples % config["batch_size"]]


@pytest.mark.parametrize("name", MATCHING)
def test_matching_scores_of_the_examples(backbone, name):
    """The matcher on the reference's noise: errors of all four pairs, and the scores it printed."""
    tensors, config = MATCHING[name]
    noise = SharedNoise(_matching_noise(tensors, config))
    matcher = ImageCaptionMatcher(backbone, len(tensors["t"]), config["n_trials"], config["loss"], config["batch_size"])
    total = PairScores()
    for i, example in enumerate(config["examples"]):
        latents = torch.cat([tensors[f"ex{i}.image{j}.latent"] for j in range(2)])
        errors = matcher.match_latents(latents, [example["caption_0"], example["caption_1"]], noise)  # [I, C, N]
        for j in range(2):
            for c in range(2):
                _check_close(errors[j, c], tensors[f"ex{i}.c{c}_i{j}.errors"].flatten())
        total += PairScores.of(normalised(errors.mean(2).T), example["tag"])
    assert sorted(total.lines()) == sorted(config["stdout"])


@pytest.mark.parametrize("name", MATCHING)
def test_matching_rule(name):
    """Scores and intervals as printed, from mean errors that hold exact ties."""
    tensors, config = MATCHING[name]
    errors = tensors["rule.errors"].view(-1, 2, 2)  # [n, captions, images]
    parts = [PairScores.of(normalised(e), tag) for e, tag in zip(errors, config["rule"]["tags"], strict=True)]
    assert sorted(sum(parts, PairScores()).lines()) == sorted(config["rule"]["stdout"])


@pytest.mark.parametrize(("name", "case"), CROPS)
def test_crops_of_the_class_conditional_script_are_exact(name, case):
    tensors, config = _fixtures(f"{name}.safetensors")[name]
    size = config["crops"][case]["size"]
    out = AdmTransform(size)(Image.fromarray(tensors[f"{case}.pixels"].numpy()))
    assert torch.equal((255 * out).round().byte().permute(1, 2, 0), tensors[f"{case}.cropped"])
    assert torch.equal((out - 0.5) / 0.5, tensors[f"{case}.out"])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_errors_do_not_depend_on_call_size(backbone, name):
    tensors, config = ADAPTIVE[name]
    run, options = next(iter(config["runs"].items()))
    noise = tensors[f"run.{run}.noise"][:3]
    latents, t = tensors["image0.latent"].expand(3, -1, -1, -1), torch.tensor([10, 500, 990])
    condition = backbone.condition(config["prompts"])
    candidates = torch.arange(len(config["prompts"])).expand(3, -1)
    with torch.inference_mode():
        errors = [
            DenoisingErrors(backbone, options["loss"], rows)(latents, noise, t, condition, candidates)
            for rows in (15, 5, 3, 1)
        ]
    for other in errors[1:]:
        _check_close(other, errors[0])
