"""`perception adapt`: from labelled images to a file of tokens that `classify` reads."""

import argparse
import json

import pytest

from perception.classification.few_shot import OBJECTIVES, load_class_tokens
from perception.commands import adapt
from perception.commands.main import main

QUICK = ("--size", "64", "--device", "cpu", "--no-progress")


@pytest.fixture
def learn(tiny_sd, capsys):
    """Run the command; returns status, stdout, stderr."""

    def call(*arguments):
        options = ("--steps", "2", "--batch", "2", "--tokens", "1")
        status = main(["adapt", "--backbone", str(tiny_sd), *QUICK, *options, *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_tokens_are_learned_and_classify_reads_them(learn, run, folder, tmp_path):
    file = tmp_path / "tokens.safetensors"
    status, printed, _ = learn(folder, "--out", file)
    assert status == 0
    assert f"{file}: 1 tokens for each of 2 classes from 4 images; loss " in printed
    assert load_class_tokens(file, ["cat", "fire truck"]).embedding.shape[:2] == (2, 1)
    run(folder, out=tmp_path / "plain")
    status, _, _ = run(folder, "--class-tokens", file)
    assert status == 0
    plain, told = (
        [json.loads(line)["errors"] for line in (out / "manifest.jsonl").read_text().splitlines()]
        for out in (tmp_path / "plain", tmp_path / "out")
    )
    assert plain != told
    status, _, complaint = run(folder, "--classes", "cat,dog,fire truck", "--class-tokens", file, out=tmp_path / "no")
    assert status == 2
    assert "has tokens of cat, fire truck, but the classes are cat, dog, fire truck" in complaint
    status, _, complaint = learn(folder, "--out", file)
    assert status == 2
    assert "exists already; choose another output file or delete it" in complaint


def test_templates_are_averaged_and_the_seed_decides(learn, folder, tmp_path):
    arguments = (folder, "--classes", "fire truck,cat", "--template", "a {}.", "--template", "my {}")
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        assert learn(*arguments, "--objective", "contrast", "--seed", seed, "--out", file)[0] == 0
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


def test_what_cannot_be_learned_from(learn, folder, tmp_path, capsys):
    out = ("--out", tmp_path / "t.safetensors")
    status, _, complaint = learn(folder, "--classes", "cat,dog,fire truck", *out)
    assert (status, "no image shows dog; add one to learn from, or leave the class out" in complaint) == (2, True)
    status, _, complaint = learn(folder / "cat" / "0.png", "--classes", "cat,dog", *out)
    assert (status, "name one folder that has a sub-folder per class" in complaint) == (2, True)
    options = ["--backbone", "mini-dit", "--device", "cpu", "--no-progress", *map(str, out)]
    assert main(["adapt", str(folder), *options]) == 2
    assert "is told classes and reads no text, so it can learn no tokens" in capsys.readouterr().err
    assert not out[1].exists()


def test_an_out_that_cannot_be_written_costs_no_training(learn, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "_learn", lambda *arguments: pytest.fail("it was learned first"))
    (tmp_path / "file").touch()
    status, _, complaint = learn(folder, "--out", tmp_path / "file" / "t.safetensors")
    assert (status, "cannot be written" in complaint) == (2, True)


def test_the_choices_of_the_help_are_those_of_the_library():
    parser = argparse.ArgumentParser()
    adapt.add_arguments(parser)
    (objective,) = [action for action in parser._actions if action.dest == "objective"]
    assert tuple(objective.choices) == OBJECTIVES


def test_names_of_every_kind(learn, folder, tmp_path, odd_pictures):
    odd_pictures(folder / "cat")
    out = tmp_path / ("t" * 243 + ".safetensors")
    assert learn(folder, "--steps", 1, "--out", out)[0] == 0 and out.stat().st_size
