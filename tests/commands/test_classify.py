"""`perception classify` from files to files on the tiny backbone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from perception.classification.classifier import POOLS
from perception.classification.prompts import TABLES
from perception.classification.scoring import LOSSES
from perception.classification.transforms import INTERPOLATIONS
from perception.commands import classify
from perception.commands.classify_job import ImageClassifier
from perception.commands.main import main

QUICK = ("--size", "64", "--samples", "2,4", "--keep", "2,1", "--device", "cpu", "--no-progress")


@pytest.fixture
def folder(tmp_path):
    """Two classes with two images each."""
    random = np.random.default_rng(0)
    for name in ("cat", "fire_truck"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def run(tiny_sd, tmp_path, capsys):
    """Run the command; returns status, stdout, stderr."""

    def call(*arguments, out=tmp_path / "out"):
        status = main(["classify", "--backbone", str(tiny_sd), "--out", str(out), *QUICK, *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def _records(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_a_folder_per_class_is_evaluated_and_a_bad_file_costs_one_line(run, folder, tmp_path):
    (folder / "cat" / "bad.png").write_bytes(b"no image")
    status, printed, _ = run(folder)
    assert status == 1
    assert "mean per class       4" in printed
    assert "4 done, 0 already there, 1 failed" in printed
    records = {record["id"]: record for record in _records(tmp_path / "out")}
    assert records["cat/bad.png"]["status"] == "failed"
    good = records["fire_truck/1.png"]
    assert good["truth"] == "fire truck"
    assert good["correct"] == (good["label"] == "fire truck")
    assert good["evaluations"] == 2 * 4
    assert set(good["errors"]) == {"a photo of a cat.", "a photo of a fire truck."}
    assert min(good["errors"], key=good["errors"].get) == good["prompt"]
    assert good["margin"] == pytest.approx(abs(np.diff(list(good["errors"].values()))[0]), rel=1e-4)
    assert good["margin_se"] > 0

    (folder / "cat" / "bad.png").unlink()
    status, printed, _ = run(folder)
    assert status == 0
    assert "0 done, 4 already there, 0 failed" in printed


def test_an_interrupted_run_resumes_to_the_same_bytes(run, folder, tmp_path, monkeypatch):
    run(folder, out=tmp_path / "whole")
    finish, calls = ImageClassifier._one, []

    def interrupted(self, sample):
        calls.append(sample.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finish(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "_one", interrupted)
        status, _, complaint = run(folder)
    assert status == 130
    assert "run the same command again to resume" in complaint
    _, printed, _ = run(folder)
    assert "2 done, 2 already there" in printed
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == (tmp_path / "whole/manifest.jsonl").read_bytes()


def test_an_answer_does_not_depend_on_neighbours_name_or_batch_size(run, folder, tmp_path):
    run(folder, "--classes", "cat,dog", "--batch-size", 3)
    together = _records(tmp_path / "out")[3]
    moved = (folder / "fire_truck" / "1.png").rename(tmp_path / "other name.png")
    run(moved, "--classes", "cat,dog", out=tmp_path / "alone")
    (alone,) = _records(tmp_path / "alone")
    assert alone["id"] == "other name.png"
    assert {**alone, "id": together["id"]} == together


def test_prompt_file_templates_noise_file_and_saved_errors(run, folder, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,classname,classidx\na cat.,cat,5\nkitten,cat,5\n,nothing,2\n")
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "n.npy", noise.numpy())
    image = folder / "cat" / "0.png"
    arguments = ("--prompts", tmp_path / "p.csv", "--noise", tmp_path / "n.npy", "--save-errors")
    arguments += ("--method", "exhaustive")
    status, printed, _ = run(image, *arguments)
    assert status == 0
    assert printed.startswith("0.png  ")
    (record,) = _records(tmp_path / "out")
    assert record["class_index"] in (5, 2)
    assert record["runner_up"] != record["label"]
    assert record["output"] == ["errors/0.png.safetensors"]
    saved = load_file(tmp_path / "out" / record["output"][0])
    assert saved["errors"].shape == (3, 4)
    assert saved["timesteps"].tolist() == [125, 375, 625, 875]
    means = saved["errors"].double().mean(1).tolist()
    assert means == pytest.approx(list(record["errors"].values()))

    run(image, *arguments, "--pool", "mean_error", out=tmp_path / "pooled")
    (pooled,) = _records(tmp_path / "pooled")
    assert list(pooled["errors"]) == ["cat", "nothing"]
    assert pooled["errors"]["cat"] == pytest.approx(sum(means[:2]) / 2, rel=1e-5)


def test_dry_run_counts_and_writes_nothing(run, folder, tmp_path):
    status, printed, _ = run(folder, "--classes", "a,b,c,d", "--samples", "4,8", "--dry-run")
    assert status == 0
    assert f"denoiser evaluations  {4 * (4 * 4 + 2 * 4)}" in printed
    assert not (tmp_path / "out").exists()


def test_another_setting_in_the_same_folder_is_refused(run, folder):
    run(folder / "cat" / "0.png", "--classes", "cat,dog")
    status, _, complaint = run(folder / "cat" / "0.png", "--classes", "cat,dog", "--loss", "l1")
    assert status == 2
    assert "loss = 'l2' (now 'l1')" in complaint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cat/0.png",), "add --classes A,B,C or --prompts FILE, or name one folder"),
        ((".", "--classes", "cat"), "at least two classes, but 1 was given"),
        ((".", "--classes", "cat,cat"), "class name 'cat' is given twice"),
        ((".", "--evaluate", "--classes", "cat,dog"), "folder name 'fire_truck' is none of the classes (cat, dog)"),
        ((".", "--preset", "dogs"), "unknown preset 'dogs'; choose one of food,"),
        ((".", "--keep", "1"), "samples 2,4 and keep 1 must name the same stages"),
        ((".", "--size", "63"), "both sides must be multiples of 8"),
        ((".", "--noise", "n.npy"), "the noise file n.npy"),
        ((".", "--prompts", "p.csv"), "no prompt table or file 'p.csv'"),
        ((".", "--template", "a photo"), "must contain {} once"),
        (("nothing", "--classes", "cat,dog"), "nothing does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(run, folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    status, _, complaint = run(*arguments)
    assert status == 2
    assert complaint.startswith("perception: ")
    assert complaint.count("\n") == 1
    assert sentence in complaint


def test_choices_of_the_help_are_those_of_the_library():
    import argparse

    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    actions = {action.dest: action for action in parser._actions}
    assert tuple(actions["pool"].choices) == POOLS
    assert tuple(actions["loss"].choices) == tuple(LOSSES)
    assert tuple(actions["interpolation"].choices) == tuple(INTERPOLATIONS)
    assert all(table in actions["prompts"].help for table in TABLES)


def test_help_needs_no_torch():
    code = "import sys, perception.commands.classify, perception.commands.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
