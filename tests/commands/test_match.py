"""`perception match` from files to files on the tiny backbone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from perception.classification.matching.matcher import ImageCaptionMatcher
from perception.classification.noise import SeededNoise
from perception.classification.scoring import LOSSES
from perception.classification.transforms import INTERPOLATIONS, ClassifierTransform
from perception.commands import match
from perception.commands.main import main
from perception.data.images import read_image
from perception.jobs.manifest import encode_line, part_path
from perception.metrics.matching import PairScores, normalised

QUICK = ("--size", "64", "--samples", "3", "--device", "cpu", "--no-progress")


@pytest.fixture
def folder(tmp_path):
    """Four images, two examples of two, and captions."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(4):
        pixels = random.integers(0, 255, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    rows = [
        {"id": e, "image_0": f"{2 * e}", "image_1": f"{2 * e + 1}", "caption_0": "a b", "caption_1": f"b a {e}"}
        for e in range(2)
    ]
    rows[1]["tag"] = "Object"
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "captions.txt").write_text("a cat\na dog\nnoise\n")
    (tmp_path / "captions.csv").write_text("image,caption\n0.png,a cat\n0.png,cat\n3.png,noise\n")
    return tmp_path


@pytest.fixture
def run(tiny_sd, tmp_path, capsys):
    """Run the command; returns status, stdout, stderr."""

    def call(*arguments, out=tmp_path / "out"):
        status = main(["match", "--backbone", str(tiny_sd), "--out", str(out), *QUICK, *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def _records(out):
    return {r["id"]: r for r in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}


def test_examples_are_scored_as_the_module_does(run, folder, tmp_path, tiny_backbone):
    status, printed, _ = run("--examples", folder / "examples.jsonl", "--seed", 3)
    assert status == 0
    records = _records(tmp_path / "out")
    assert list(records) == ["0/image_0", "0/image_1", "1/image_0", "1/image_1"]
    total = better = PairScores()
    for e, tag in enumerate((None, "Object")):
        files = [folder / "images" / f"{2 * e + j}.png" for j in range(2)]
        images = torch.stack([ClassifierTransform(64)(read_image(file)) for file in files])
        matcher = ImageCaptionMatcher(tiny_backbone, samples=3)
        errors = matcher(images, ["a b", f"b a {e}", ""], SeededNoise(3)).double().mean(2).T  # [C, I]
        for j in range(2):
            record = records[f"{e}/image_{j}"]
            assert record["errors"] == pytest.approx(errors[:2, j].tolist(), rel=1e-5)
            assert record["unconditional"] == pytest.approx(errors[2, j].item(), rel=1e-5)
            assert record["evaluations"] == 9
        total += PairScores.of(normalised(errors[:2]), tag)
        better += PairScores.of(normalised(errors[:2], errors[2]), tag)
    expected = ["2 of 2 examples, percent:", *total.lines(), "less the error of the empty caption:", *better.lines()]
    assert printed.splitlines()[: len(expected)] == expected


def test_captions_for_a_folder_with_and_without_truth(run, folder, tmp_path):
    status, printed, _ = run(folder / "images", "--captions", folder / "captions.txt", "--no-normalise")
    assert status == 0
    record = _records(tmp_path / "out")["2.png"]
    assert record["unconditional"] is None
    assert record["best"] == ["a cat", "a dog", "noise"][int(np.argmin(record["errors"]))]
    assert f"2.png  {record['best']}" in printed
    status, printed, _ = run(folder / "images", "--captions", folder / "captions.csv", out=tmp_path / "truth")
    assert status == 0
    assert printed.count("image -> text  R@1") == printed.count("text -> image  R@1") == 2


def test_resume_redoes_only_what_changed(run, folder, tmp_path):
    run("--examples", folder / "examples.jsonl")
    whole = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    _, printed, _ = run("--examples", folder / "examples.jsonl")
    assert "0 done, 4 already there" in printed
    text = (folder / "examples.jsonl").read_text()
    (folder / "examples.jsonl").write_text(text.replace("b a 1", "b a two"))
    _, printed, _ = run("--examples", folder / "examples.jsonl")
    assert "2 done, 2 already there" in printed
    (folder / "examples.jsonl").write_text(text)
    run("--examples", folder / "examples.jsonl")
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == whole
    status, _, complaint = run("--examples", folder / "examples.jsonl", "--loss", "l1")
    assert status == 2
    assert "loss = 'l2' (now 'l1')" in complaint


def test_a_bad_image_costs_its_example(run, folder, tmp_path):
    (folder / "images" / "1.png").write_bytes(b"no image")
    status, printed, _ = run("--examples", folder / "examples.jsonl")
    assert status == 1
    assert "1 of 2 examples" in printed
    assert "3 done, 0 already there, 1 failed" in printed


def test_a_compiled_denoiser_runs_and_gives_the_same_answers(run, folder, tmp_path, monkeypatch):
    calls = []

    def counting(module, **options):
        return lambda *args, **kwargs: calls.append(len(args[0])) or module(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", counting)
    run("--examples", folder / "examples.jsonl", out=tmp_path / "plain")
    assert calls == []
    assert run("--examples", folder / "examples.jsonl", "--compile")[0] == 0
    assert calls == [16] * 4  # of each image 3 captions on 3 samples, filled up
    for name, plain in _records(tmp_path / "plain").items():
        assert _records(tmp_path / "out")[name]["errors"] == pytest.approx(plain["errors"], rel=1e-5)


def test_errors_that_are_not_finite_cost_one_line(run, folder, tmp_path, monkeypatch):
    match_latents, calls = ImageCaptionMatcher.match_latents, []

    def overflowing(self, *arguments):
        calls.append(arguments)
        return match_latents(self, *arguments) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(ImageCaptionMatcher, "match_latents", overflowing)
    status, printed, _ = run("--examples", folder / "examples.jsonl")
    assert status == 1
    assert "3 done, 0 already there, 1 failed" in printed
    assert _records(tmp_path / "out")["0/image_1"]["status"] == "failed"


def test_dry_run_counts_and_writes_nothing(run, folder, tmp_path):
    status, printed, _ = run("--examples", folder / "examples.jsonl", "--dry-run")
    assert status == 0
    assert f"denoiser evaluations  {4 * 3 * 3}" in printed
    assert not (tmp_path / "out").exists()


def test_dry_run_counts_what_a_killed_run_finished(run, folder):
    (folder / "killed").mkdir()
    part_path(folder / "killed", 0).write_bytes(encode_line({"id": "0.png", "status": "done", "output": []}))
    arguments = (folder / "images", "--captions", folder / "captions.txt", "--dry-run")
    assert "items  3" in run(*arguments, out=folder / "killed")[1]


def test_a_long_caption_stops_the_job_unless_it_may_be_cut(run, folder):
    (folder / "captions.txt").write_text("a cat\n" + "very " * 90 + "long\n")
    image = folder / "images" / "0.png"
    status, _, complaint = run(image, "--captions", folder / "captions.txt")
    assert status == 2
    assert "tokens and 77 fit; shorten it, or cut all long captions with --truncate" in complaint
    assert run(image, "--captions", folder / "captions.txt", "--truncate", out=folder / "cut")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--captions", "captions.txt"), "--captions needs images to compare with"),
        (("images", "--examples", "examples.jsonl"), "--examples names its images itself"),
        (("--examples", "captions.txt"), "captions.txt is neither .csv nor .jsonl"),
        (("images", "--captions", "nothing.txt"), "nothing.txt does not exist; check the path"),
        (("images", "--captions", "captions.txt", "--size", "63"), "both sides must be multiples of 8"),
        (("images", "--captions", "captions.txt", "--noise", "n.npy"), "the noise file n.npy does not exist"),
        (("images", "--captions", "captions.txt", "--samples", "2000"), "do not fit a model trained on 1000 steps"),
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
    match.add_arguments(parser)
    actions = {action.dest: action for action in parser._actions}
    assert tuple(actions["loss"].choices) == tuple(LOSSES)
    assert tuple(actions["interpolation"].choices) == tuple(INTERPOLATIONS)


def test_help_needs_no_torch():
    code = "import sys, perception.commands.match; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_every_kind(run, folder, odd_pictures, shown):
    odd_pictures(folder / "images")
    status, told, _ = run(folder / "images", "--captions", folder / "captions.txt")
    assert status == 0 and shown(told) and "line\\nbreak\\r.png" in told
