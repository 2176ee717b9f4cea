"""`perception classify` with classes that CLIP chooses, the crop of DiT, and learned class tokens."""

import argparse
import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from perception.backbones import load_backbone
from perception.classification.clip_preselection import ClipPreselection
from perception.classification.job import ClassifyJob, ClassifyOptions, default_crop
from perception.classification.prompts import class_prompts
from perception.classification.stopping.schedules import Exhaustive
from perception.classification.transforms import CROPS, AdmTransform, ClassifierTransform
from perception.commands.classify import command as classify
from perception.errors import UserError
from perception.jobs.items import Item

MANY = ",".join(f"thing {i}" for i in range(9))


def _record(out):
    (line,) = (out / "manifest.jsonl").read_text().splitlines()
    return json.loads(line)


def test_all_classes_preselected_are_no_preselection(run, folder, clip_folder, tmp_path):
    image = folder / "cat" / "0.png"
    run(image, "--classes", "cat,dog,bird", out=tmp_path / "plain")
    run(image, "--classes", "cat,dog,bird", "--preselect", "3", "--preselect-clip", clip_folder)
    plain, all_race = _record(tmp_path / "plain"), _record(tmp_path / "out")
    for name in ("preselected_by", "preselected", "similarities"):
        assert all_race.pop(name)
    assert all_race == plain


def test_clip_preselects(run, folder, clip_folder, tmp_path):
    names = MANY.split(",")
    for batch in ("1", "4"):
        arguments = (*folder.glob("*/*.png"), "--classes", MANY, "--template", "a {}.", "--template", "my {}")
        clip = ("--preselect", "3", "--preselect-clip", clip_folder, "--batch-size", batch)
        status, printed, _ = run(*arguments, *clip, out=tmp_path / batch)
        assert status == 0
        assert "preselected by CLIP" not in printed  # there is no truth to compare with
    one, four = (sorted(map(json.loads, (tmp_path / n / "manifest.jsonl").open()), key=_id) for n in ("1", "4"))
    preselection = ClipPreselection(clip_folder, class_prompts(names, ["a {}.", "my {}"]))
    for record, other in zip(one, four, strict=True):
        (ranking,) = preselection([preselection.pixels(Image.open(next(folder.parent.rglob(record["id"]))))])
        assert record["preselected_by"] == str(clip_folder)
        best = dict(zip([names[c] for c in ranking.classes], ranking.similarities, strict=True))
        assert record["preselected"] == list(ranking.classes[:3])
        assert list(record["similarities"].items()) == list(best.items())[:10]
        assert len(record["samples"]) == 3 * 2  # both prompts of every class
        assert {name.removeprefix("a ").removeprefix("my ").strip(".") for name in record["errors"]} == {
            *list(best)[:3]
        }
        assert record["evaluations"] == 6 * 2 + 2 * 2
        assert names.index(record["label"]) in record["preselected"] and record["ranking"][0] == record["label"]
        assert (other["preselected"], other["label"]) == (record["preselected"], record["label"])


def _id(record):
    return record["id"]


def test_clip_is_told_the_prompts_and_not_what_a_class_conditional_model_is_told(clip_folder):
    prompts = class_prompts(["cat", "dog", "bird"])
    options = ClassifyOptions(
        prompts, Exhaustive(1), class_prompts=(("3",), ("5", "7"), ("0",)), clip=str(clip_folder), preselect=2
    )
    job = ClassifyJob(load_backbone("mini-dit", device="cpu"), options)
    assert job.prompts.prompts == ("3", "5", "7", "0") and job.prompts.classes == (0, 1, 1, 2)
    assert torch.equal(job.clip.vectors, ClipPreselection(clip_folder, prompts).vectors)
    for alone in ({"preselect": None}, {"clip": None}):
        with pytest.raises(UserError, match="`preselect` and `clip` belong together"):
            replace(options, **alone)


def test_another_clip_model_is_another_job(run, folder, clip_folder, make_clip, tmp_path):
    other = make_clip(4)
    arguments = (folder / "cat" / "0.png", "--classes", MANY, "--preselect", "3")
    assert run(*arguments, "--preselect-clip", clip_folder)[0] == 0
    written = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    moved = shutil.copytree(clip_folder, tmp_path / "moved")
    status, printed, _ = run(*arguments, "--preselect-clip", moved)  # the same model at another place
    assert status == 0 and "1 already there" in printed
    status, _, complaint = run(*arguments, "--preselect-clip", other)
    assert status == 2
    assert "preselect_clip" in complaint and complaint.count("\n") == 1
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == written


def test_the_truth_that_clip_keeps_is_told(run, folder, clip_folder, tmp_path):
    many = ",".join(["cat", "fire truck", *MANY.split(",")])
    options = ("--classes", many, "--evaluate", "--preselect", "4", "--preselect-clip", clip_folder)
    status, printed, _ = run(folder, *options, "--border", "3")
    assert status == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").open()]
    kept = sum(many.split(",").index(record["truth"]) in record["preselected"] for record in records) / 4
    assert f"the true class was among those preselected by CLIP for {kept:.2%} of the images" in printed
    status, printed, _ = run(folder, *options, "--dry-run", out=tmp_path / "planned")
    assert status == 0
    assert f"denoiser evaluations  {4 * (4 * 2 + 2 * 2)}" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--preselect", "2"), "--preselect N and --preselect-clip MODEL belong together"),
        (("--preselect-clip", "clip"), "--preselect N and --preselect-clip MODEL belong together"),
        (("--preselect", "2", "--preselect-clip", "clip"), "the CLIP model clip does not exist"),
        (("--preselect", "2", "--preselect-clip", "cat"), "cat/config.json is missing or unreadable"),
        (("--crop", "adm", "--size", "64x32"), "the crop 'adm' makes squares"),
        (("--class-tokens", "no.safetensors"), "no.safetensors holds no learned class tokens"),
    ],
)
def test_bad_options_get_one_sentence(run, folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    status, _, complaint = run(".", "--classes", "cat,fire truck", *arguments)
    assert status == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_the_crop_of_the_training_is_the_default(tiny_backbone, folder):
    dit = load_backbone("mini-dit", device="cpu")
    assert default_crop(tiny_backbone) == default_crop(dit) == "resize"  # of pixels, so not ADM's
    dit.vae = AutoencoderTiny()
    assert default_crop(dit) == "adm"
    prompts = class_prompts(["cat", "dog"])
    plain, adm = (
        ClassifyJob(tiny_backbone, ClassifyOptions(prompts, Exhaustive(1), size=(64, 64), crop=crop))
        for crop in (None, "adm")
    )
    assert isinstance(plain.transform, ClassifierTransform) and isinstance(adm.transform, AdmTransform)
    assert "crop" not in plain.options and plain.fingerprint != adm.fingerprint
    item = Item("0.png", folder / "cat" / "0.png")
    assert adm.prepare(item).pixels.shape == (3, 64, 64)
    assert torch.equal(adm.prepare(item).pixels, adm.prepare(item).pixels)


def test_the_choices_of_the_help_are_those_of_the_library():
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    (crop,) = [action for action in parser._actions if action.dest == "crop"]
    assert tuple(crop.choices) == CROPS
