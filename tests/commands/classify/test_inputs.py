"""`perception classify`: what it compares and what it writes beside labels."""

import argparse
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image

from perception.classification.error_maps import ErrorMaps, overlay_png
from perception.classification.job import ClassifyJob, ClassifyOptions
from perception.classification.prompts import class_prompts
from perception.classification.recorded import read_recorded
from perception.classification.report import Answer, accuracy_lines, calibration_lines
from perception.classification.sets import ClassificationSet
from perception.classification.stopping.racing import Racing
from perception.classification.stopping.schedules import Exhaustive
from perception.commands.classify import command as classify
from perception.commands.classify.inputs import read_comparison
from perception.commands.main import main
from perception.data.classification_sets import LabelledImage
from perception.jobs.items import Item


def _records(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_error_maps_beside_errors(run, folder, tmp_path):
    image = folder / "cat" / "0.png"
    arguments = ("--classes", "cat,dog,bird", "--method", "exhaustive", "--samples", "4")
    run(image, *arguments, out=tmp_path / "plain", stages=())
    arguments += ("--error-maps", "--error-map-samples", "3", "--save-errors")
    status, printed, _ = run(image, *arguments, "--dry-run", stages=())
    assert f"denoiser evaluations  {3 * 4 + 2 * 3}" in printed
    status, printed, _ = run(image, *arguments, stages=())
    assert status == 0
    assert "12.0 denoiser evaluations per image, and 6.0 for its error map" in printed
    (plain,), (record,) = _records(tmp_path / "plain"), _records(tmp_path / "out")
    assert record["output"] == ["error_maps/0.png.png", "errors/0.png.safetensors"]
    assert record["map_evaluations"] == 2 * 3
    assert record["errors"] == plain["errors"] and record["evaluations"] == plain["evaluations"]
    assert Image.open(tmp_path / "out/error_maps/0.png.png").size == (64, 64)
    names, (recorded,) = read_recorded(tmp_path / "out")  # finds the errors among the outputs
    assert names == ("cat", "dog", "bird") and recorded.errors.shape == (3, 4)
    status, _, complaint = run(image, *arguments, "--error-map-samples", "2", stages=())
    assert status == 2
    assert "error_map_samples = 3 (now 2)" in complaint


def test_error_maps_of_pooled_prompts_average_them(tiny_backbone, folder):
    image = Item("0.png", folder / "cat" / "0.png")
    prompts = class_prompts(["cat", "dog"], ["a {}.", "my {}"])
    options = ClassifyOptions(prompts, Exhaustive(3), loss="l1", pool="mean_error", size=(64, 64), error_maps=3)
    job = ClassifyJob(tiny_backbone, options)
    sample = job.prepare(image)
    latent = tiny_backbone.encode(sample.pixels[None])
    (result,) = job.classifier.classify_latents(latent, [sample.noise_id], job.noise)
    evaluations, content = job._map(sample, latent[0], result)
    assert evaluations == 4 * 3
    maps = ErrorMaps(tiny_backbone, 3, loss="l1")(latent[0], job.classifier.condition, sample.noise_id)
    cat, dog = maps[:2].mean(0), maps[2:].mean(0)
    assert [cat.mean().item(), dog.mean().item()] == pytest.approx(list(result.errors), rel=1e-5)
    difference = dog - cat if result.label == "cat" else cat - dog
    shown, expected = (
        np.asarray(Image.open(BytesIO(c))).astype(int) for c in (content, overlay_png(sample.pixels, difference))
    )
    assert np.abs(shown - expected).max() <= 2


def test_template_sets_and_files(run, folder, tmp_path):
    (tmp_path / "two.txt").write_text("my {}.\nthe {}!\n")
    image = folder / "cat" / "0.png"
    arguments = ("--template", tmp_path / "two.txt", "--template", "stl10", "--template", "{}")
    run(image, "--classes", "cat,dog", *arguments)
    (record,) = _records(tmp_path / "out")
    assert list(record["errors"])[:5] == ["my cat.", "the cat!", "a photo of a cat.", "a photo of the cat.", "cat"]
    run(image, "--prompts", "mnist", "--template", "a photo of a {}.", out=tmp_path / "mnist")
    (record,) = _records(tmp_path / "mnist")
    assert next(iter(record["errors"])) == "a photo of a 0."  # asked for, so not the sentence of the table
    (tmp_path / "p.csv").write_text("prompt,classname,classidx\na,cat,0\nb,dog,1\n")
    status, _, complaint = run(image, "--prompts", tmp_path / "p.csv", "--template", "a {}", out=tmp_path / "none")
    assert status == 2
    assert "are whole sentences, so templates have no place in them" in complaint


def test_a_data_set_brings_images_classes_and_figure(run, folder, tmp_path):
    status, printed, _ = run("--dataset", "folder", "--root", folder, "--per-class", "1")
    assert status == 0
    assert "the figure that papers report on this set: top-1 " in printed
    records = _records(tmp_path / "out")
    assert [(record["id"], record["truth"]) for record in records] == [
        ("cat/0.png", "cat"),
        ("fire_truck/0.png", "fire truck"),
    ]
    assert records[0]["evaluations"] == 2 * 4


def test_a_data_set_decides_border_and_loss(tmp_path, monkeypatch):
    chosen = ClassificationSet(
        "objectnet", (LabelledImage("0.png", tmp_path / "0.png", 1),), class_prompts(["cat", "dog"]), True, 2, "pets"
    )
    monkeypatch.setattr("perception.classification.sets.classification_set", lambda *_, **__: chosen)
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    args = parser.parse_args(["--dataset", "objectnet", "--root", str(tmp_path)])
    comparison = read_comparison(args)
    assert comparison.headline == "mean per class"
    assert comparison.items == [Item("0.png", tmp_path / "0.png", "dog")]
    options = classify._options(args, comparison)
    assert (options.border, options.loss) == (2, "l1")
    assert options.rule == Racing()  # a data set is no reason for the published schedule
    args = parser.parse_args(["--dataset", "objectnet", "--root", str(tmp_path), "--border", "0", "--loss", "huber"])
    options = classify._options(args, comparison)
    assert (options.border, options.loss) == (0, "huber")


@pytest.mark.parametrize(
    ("arguments", "confidence"),
    [
        (("--prompts", "mnist"), 0.99),
        (("--prompts", "imagenet"), 0.9996),
        (("--prompts", "imagenet", "--confidence", "0.99"), 0.99),
        (("--prompts", "imagenet", "--preselect", "40", "--preselect-clip", "CLIP"), 0.99),
        (("--prompts", "imagenet", "--preselect", "80", "--preselect-clip", "CLIP"), 0.995),
        (("--prompts", "mnist", "--template", "cifar"), 1 - 0.01 * 40 / 180),
        (("--prompts", "mnist", "--template", "cifar", "--pool", "mean_error"), 0.99),
        (("--prompts", "mnist", "--template", "cifar", "--pool", "mean_embed"), 0.99),
    ],
)
def test_many_candidates_are_compared_more_carefully(folder, clip_folder, arguments, confidence):
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    arguments = [str(clip_folder) if argument == "CLIP" else argument for argument in arguments]
    args = parser.parse_args([str(folder / "cat" / "0.png"), *arguments])
    assert classify._options(args, read_comparison(args)).rule.confidence == pytest.approx(confidence, abs=1e-12)


def test_the_report_names_the_customary_figure_and_the_mistakes(tmp_path):
    rows = [("cat", "cat"), ("cat", "dog"), ("cat", "cat"), ("cat", "cat"), ("dog", "cow")]
    names = ("cat", "cow", "dog")
    number = {name: c for c, name in enumerate(names)}
    answers = [
        Answer.of({"ranking": [guess, *(n for n in names if n != guess)]}, number[truth], number)
        for truth, guess in rows
    ]
    lines = accuracy_lines(tmp_path, answers, names, "mean per class")
    assert "the figure that papers report on this set: mean per class 37.50%" in lines
    assert "most often taken for another: cat as dog (1), dog as cow (1)" in lines


def test_the_calibration_error_is_that_of_the_label(tmp_path):
    """Ties, and labels of less than the largest probability, as a race may leave them."""
    number = {"cat": 0, "dog": 1}
    records = [
        {"label": "dog", "ranking": ["dog", "cat"], "probabilities": {"cat": 0.5, "dog": 0.5}},
        {"label": "dog", "ranking": ["dog", "cat"], "probabilities": {"cat": 0.6, "dog": 0.4}},
    ]
    lines = calibration_lines(tmp_path, [Answer.of(record, 1, number) for record in records])
    assert lines[0] == "mean confidence 45.00%, expected calibration error 55.00%"


@pytest.fixture(scope="module")
def pixel_dit(tmp_path_factory):
    """A folder with a class-conditional transformer that works on 8 x 8 grey pixels."""
    folder = tmp_path_factory.mktemp("dit")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=1,
            out_channels=1,
            num_layers=1,
            sample_size=8,
            patch_size=4,
            num_embeds_ada_norm=3,
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    DiTPipeline(model, None, DDIMScheduler()).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"0": "tench, Tinca tinca", "1": "cat", "2": "fire truck"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_class_conditional_backbone_is_told_bare_names_at_its_own_size(pixel_dit, folder, tmp_path, capsys):
    def run(*arguments, out):
        options = ("--device", "cpu", "--no-progress", "--samples", "8", "--error-maps", "--error-map-samples", "2")
        status = main(
            ["classify", "--backbone", str(pixel_dit), "--out", str(tmp_path / out), *options, *map(str, arguments)]
        )
        return status, capsys.readouterr()

    status, _ = run("--dataset", "folder", "--root", folder, out="set")
    assert status == 0
    records = _records(tmp_path / "set")
    assert set(records[0]["errors"]) == {"cat", "fire truck"}
    assert json.loads((tmp_path / "set/job.json").read_text())["options"]["size"] == [8, 8]
    assert Image.open(tmp_path / "set" / records[0]["output"][0]).size == (8, 8)
    status, _ = run(folder / "cat/0.png", "--classes", "cat,tench", "--template", "{}", out="names")
    assert status == 0
    status, printed = run(folder / "cat/0.png", "--classes", "cat,trunk", out="unknown")
    assert status == 2
    assert "'trunk' is no class of this class-conditional backbone" in printed.err
    status, printed = run(folder / "cat/0.png", "--classes", "cat,tench", "--template", "a {}.", out="sentence")
    assert status == 2
    assert "'a cat.' is no class of this class-conditional backbone" in printed.err


def test_class_conditional_models_of_imagenet_are_told_numbers(folder):
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    comparison = read_comparison(parser.parse_args([str(folder / "cat"), "--prompts", "imagenet"]))
    assert comparison.class_prompts == tuple((str(c),) for c in range(1000))
    comparison = read_comparison(parser.parse_args([str(folder / "cat"), "--classes", "cat,dog"]))
    assert comparison.class_prompts == (("cat",), ("dog",))


def test_class_conditional_models_are_told_every_number_of_a_class(tmp_path, monkeypatch):
    image = LabelledImage("0.png", tmp_path / "0.png", 1)
    chosen = ClassificationSet(
        "objectnet", (image,), class_prompts(["alarm clock", "bench"]), numbers=((409, 530), (703,))
    )
    monkeypatch.setattr("perception.classification.sets.classification_set", lambda *_, **__: chosen)
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    comparison = read_comparison(parser.parse_args(["--dataset", "objectnet", "--root", str(tmp_path)]))
    assert comparison.class_prompts == (("409", "530"), ("703",))
    told = comparison.prompts.with_prompts(comparison.class_prompts)
    assert (told.prompts, told.classes, told.names) == (("409", "530", "703"), (0, 0, 1), ("alarm clock", "bench"))
