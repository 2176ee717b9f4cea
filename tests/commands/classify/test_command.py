"""`perception classify` from files to files on the tiny backbone."""

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from perception.backbones import DiffusionBackbone
from perception.classification.classifier import POOLS
from perception.classification.job import ClassifyJob
from perception.classification.prompts import TABLES
from perception.classification.recorded import read_recorded
from perception.classification.scoring import BOUNDS, LOSSES
from perception.classification.transforms import INTERPOLATIONS
from perception.commands.classify import command as classify
from perception.commands.classify.rules import METHODS
from perception.data.templates import TEMPLATE_SETS
from perception.errors import UserError
from perception.jobs import runner

EXACT = ("label", "ranking", "evaluations", "survivors", "stop", "rounds", "samples")
STAGES = ("--samples", "2,4", "--keep", "2,1")


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
    assert good["ranking"][0] == good["label"]
    assert set(good["ranking"]) == {"cat", "fire truck"}
    assert "top-5                4   100.00%" in printed
    assert f"confusion matrix: {tmp_path / 'out/confusion.png'}" in printed
    assert Image.open(tmp_path / "out/confusion.png").format == "PNG"

    (folder / "cat" / "bad.png").unlink()
    status, printed, _ = run(folder)
    assert status == 0
    assert "0 done, 4 already there, 0 failed" in printed


def test_errors_that_are_not_finite_cost_one_line(run, folder, tmp_path, monkeypatch):
    run(folder, "--batch-size", 4, out=tmp_path / "whole")
    lost = tmp_path / "images" / "cat" / "1.png"
    Image.new("RGB", (70, 80), "white").save(lost)
    encode = DiffusionBackbone.encode

    def overflowing(self, images):
        white = images.amin((1, 2, 3)) == 1
        return encode(self, images).masked_fill(white.view(-1, 1, 1, 1), float("inf"))

    monkeypatch.setattr(DiffusionBackbone, "encode", overflowing)
    status, printed, _ = run(folder, "--batch-size", 4, "--error-maps", "--error-map-samples", 2)
    assert status == 1
    assert "3 done, 0 already there, 1 failed" in printed
    assert "cat/1.png: The result is not a finite number; check the model and its dtype." in printed
    for record, other in zip(_records(tmp_path / "out"), _records(tmp_path / "whole"), strict=True):
        if record["id"] == "cat/1.png":
            assert record["status"] == "failed"
        else:
            assert record["errors"] == pytest.approx(other["errors"], rel=1e-5)


def test_evaluate_reads_the_truth_from_the_folder_after_a_run_without_it(run, folder, tmp_path):
    arguments = (folder, "--classes", "cat,fire truck")
    _, printed, _ = run(*arguments)
    assert "top-1" not in printed
    _, printed, _ = run(*arguments, "--evaluate")
    assert "0 done, 4 already there" in printed
    assert "top-5                4   100.00%" in printed
    right = sum(record["label"].replace(" ", "_") in record["id"] for record in _records(tmp_path / "out"))
    assert f"top-1                4  {100 * right / 4:7.2f}%" in printed


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_interrupted_run_keeps_what_is_decided_and_resumes_to_the_same_answers(
    run, folder, tmp_path, monkeypatch, batch_size
):
    """To the same bytes where images race one by one; else other images meet in a call, which tells in last digits."""
    arguments = (folder, "--batch-size", batch_size)
    run(*arguments, out=tmp_path / "whole")
    outcome, decided = ClassifyJob._outcome, []

    def interrupted(self, entered, result):
        if len(decided) == 2:
            raise KeyboardInterrupt
        decided.append(result)
        return outcome(self, entered, result)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifyJob, "_outcome", interrupted)
        status, _, complaint = run(*arguments)
    assert status == 130
    assert "run the same command again to resume" in complaint
    _, printed, _ = run(*arguments)
    assert "2 done, 2 already there" in printed
    resumed, whole = (tmp_path / name / "manifest.jsonl" for name in ("out", "whole"))
    if batch_size == 1:
        assert resumed.read_bytes() == whole.read_bytes()
    for one, other in zip(_records(tmp_path / "out"), _records(tmp_path / "whole"), strict=True):
        assert one["errors"] == pytest.approx(other["errors"], rel=1e-5)
        assert [one[key] for key in EXACT] == [other[key] for key in EXACT]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_two_runs_write_the_same_bytes(run, folder, tmp_path, batch_size):
    """Errors too, whose files hold their metadata in a fixed order."""
    for name in ("out", "again"):
        maps = ("--error-maps", "--error-map-samples", 2)
        run(folder, "--batch-size", batch_size, "--save-errors", *maps, out=tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert sum(path.suffix == ".safetensors" for path in files) == 4
    for path in files:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


def test_a_line_names_the_best_of_many_classes_and_the_file_of_errors_all(run, folder, tmp_path):
    names = ",".join(f"kind number {number}" for number in range(100))
    image = folder / "cat" / "1.png"
    status, _, _ = run(
        image,
        "--classes",
        names,
        "--size",
        "64",
        "--save-errors",
        stages=("--samples", "1", "--keep", "1"),
    )
    assert status == 0
    (line,) = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert len(line) < 2000 and len(record["errors"]) == 10 and record["prompt"] in record["errors"]
    errors = load_file(tmp_path / "out/errors/1.png.safetensors")["errors"]
    assert errors.shape == (100, 1) and errors.isfinite().all()
    assert sorted(record["errors"].values()) == pytest.approx(errors[:, 0].sort().values[:10].tolist())


def test_an_answer_does_not_depend_on_neighbours_or_name(run, folder, tmp_path):
    run(folder, "--classes", "cat,dog")
    among = _records(tmp_path / "out")[3]
    moved = (folder / "fire_truck" / "1.png").rename(tmp_path / "other name.png")
    run(moved, "--classes", "cat,dog", out=tmp_path / "alone")
    (alone,) = _records(tmp_path / "alone")
    assert alone["id"] == "other name.png"
    assert {**alone, "id": among["id"]} == among


def test_images_that_race_together_get_the_same_answers(run, folder, tmp_path):
    """To rounding: another batch is another matrix product."""
    arguments = ("--classes", "cat,dog,fire truck", "--samples", "30")
    run(folder, *arguments, out=tmp_path / "single", stages=())
    run(folder, *arguments, "--batch-size", 3, stages=())
    for single, batched in zip(_records(tmp_path / "single"), _records(tmp_path / "out"), strict=True):
        assert [batched[key] for key in EXACT] == [single[key] for key in EXACT]
        assert batched["errors"] == pytest.approx(single["errors"], rel=1e-5)


@pytest.mark.parametrize(
    ("backbone", "device", "rows", "batch_size"),
    [
        ("mini", "cpu", "40", 40),
        ("mini", "cpu", "1", 1),
        ("owner/model", "cpu", "40", 1),
        ("owner/model", "cuda", "40", 40),
    ],
)
def test_images_race_together_where_small_calls_waste_time(
    run, folder, monkeypatch, backbone, device, rows, batch_size
):
    def told(items, build, options, request):
        raise UserError(f"by {options.batch_size}s")

    monkeypatch.setattr(runner, "run_job", told)
    _, _, complaint = run(folder, "--backbone", backbone, "--device", device, "--rows", rows)
    assert complaint == f"perception: by {batch_size}s\n"


def test_a_compiled_denoiser_gives_the_same_answers(run, folder, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiled.append(module) or module)
    run(folder, out=tmp_path / "plain")
    assert run(folder, "--compile", "--dry-run")[0] == 0
    assert compiled == []
    assert run(folder, "--compile", out=tmp_path / "compiled")[0] == 0
    assert len(compiled) == 1
    for plain, fast in zip(_records(tmp_path / "plain"), _records(tmp_path / "compiled"), strict=True):
        assert plain["label"] == fast["label"]
        assert plain["errors"] == pytest.approx(fast["errors"], rel=1e-5)


def test_racing_is_the_default_and_reports_itself(run, folder, tmp_path):
    image = folder / "cat" / "0.png"
    status, _, _ = run(image, "--classes", "cat,dog,bird", "--samples", "20", stages=())
    assert status == 0
    (record,) = _records(tmp_path / "out")
    assert record["stop"] in ("one class left", "grid completed")
    assert record["survivors"][0] == record["prompt"]
    assert record["evaluations"] == sum(record["samples"].values()) <= 3 * 20
    assert max(record["samples"].values()) == record["samples"][record["prompt"]] == 4 + 2 * (record["rounds"] - 1)

    run(image, "--classes", "cat,dog,bird", "--samples", "20", "--budget", "24", out=tmp_path / "short", stages=())
    (record,) = _records(tmp_path / "short")
    assert record["evaluations"] == 24
    assert record["stop"] in ("one class left", "budget spent")


def test_prompt_file_templates_noise_file_and_saved_errors(run, folder, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,classname,classidx\na cat.,cat,5\nkitten,cat,5\n,nothing,2\n")
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "n.npy", noise.numpy())
    image = folder / "cat" / "0.png"
    arguments = ("--prompts", tmp_path / "p.csv", "--noise", tmp_path / "n.npy", "--save-errors")
    arguments += ("--method", "exhaustive")
    whole = ("--samples", "4")
    status, printed, _ = run(image, *arguments, stages=whole)
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

    run(image, *arguments, "--pool", "mean_error", out=tmp_path / "pooled", stages=whole)
    (pooled,) = _records(tmp_path / "pooled")
    assert list(pooled["errors"]) == ["cat", "nothing"]
    assert pooled["errors"]["cat"] == pytest.approx(sum(means[:2]) / 2, rel=1e-5)
    assert read_recorded(tmp_path / "pooled")[1][0].costs == (2, 1)
    assert read_recorded(tmp_path / "out")[1][0].costs is None


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


def test_another_index_of_a_class_is_another_setting(run, folder, tmp_path):
    image, file = folder / "cat" / "0.png", tmp_path / "p.csv"
    for out, index in (("plain", 0), ("numbered", 5)):
        file.write_text(f"prompt,classname,classidx\na,cat,{index}\nb,dog,1\n")
        assert run(image, "--prompts", file, out=tmp_path / out)[0] == 0
    assert "class_indices" not in (tmp_path / "plain" / "job.json").read_text()
    file.write_text("prompt,classname,classidx\na,cat,6\nb,dog,1\n")
    status, _, complaint = run(image, "--prompts", file, out=tmp_path / "numbered")
    assert status == 2
    assert "class_indices = " in complaint


def test_labelled_images_calibrate_and_weigh_a_later_run(run, folder, tmp_path):
    few = tmp_path / "few"
    run(folder, "--method", "exhaustive", "--samples", "12", "--save-errors", out=few, stages=())
    arguments = ("--samples", "20", "--calibration", few)
    status, printed, _ = run(folder, *arguments, out=tmp_path / "sure", stages=())
    assert status == 0
    assert "expected calibration error" in printed
    assert f"reliability diagram: {tmp_path / 'sure/reliability.png'}" in printed
    assert Image.open(tmp_path / "sure/reliability.png").format == "PNG"
    for record in _records(tmp_path / "sure"):
        assert sum(record["probabilities"].values()) == pytest.approx(1)
        assert max(record["probabilities"], key=record["probabilities"].get) == record["label"]
    arguments += ("--classes", "cat,fire truck")
    status, _, _ = run(folder / "cat" / "0.png", *arguments, "--learn-weights", stages=())
    assert status == 0
    assert "timesteps=(41, 124," in (tmp_path / "out" / "job.json").read_text()
    status, _, complaint = run(folder, "--learn-weights", out=tmp_path / "none", stages=())
    assert status == 2
    assert "--learn-weights needs --calibration FOLDER" in complaint
    status, _, complaint = run(folder, "--calibration", tmp_path / "sure", out=tmp_path / "none", stages=())
    assert status == 2
    assert "holds no errors" in complaint


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (("--classes", "cat,dog"), "prompts = '2 ("),
        (("--loss", "l1"), "loss = 'l2' (now 'l1')"),
        (("--size", "32"), "size = [64, 64] (now [32, 32])"),
        (("--dtype", "bfloat16"), "another backbone or dtype"),
    ],
)
def test_errors_of_another_setting_calibrate_nothing(run, folder, tmp_path, arguments, difference):
    few, image = tmp_path / "few", folder / "cat" / "0.png"
    run(folder, "--method", "exhaustive", "--samples", "2", "--save-errors", out=few, stages=())
    arguments = ("--calibration", few, "--classes", "cat,fire truck", *arguments)
    status, _, complaint = run(image, *arguments)
    assert status == 2
    assert f"the errors in {few} were made with {difference}" in complaint
    assert "calibrate with the same classes, backbone and options" in complaint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cat/0.png",), "add --classes A,B,C or --prompts FILE, or name one folder"),
        (("cat/0.png", "cat/1.png", "--classes", "cat,dog", "--evaluate"), "name one folder that has a sub-folder per"),
        ((".", "--classes", "cat"), "at least two classes, but 1 was given"),
        ((".", "--classes", "cat,cat"), "class name 'cat' is given twice"),
        ((".", "--evaluate", "--classes", "cat,dog"), "folder name 'fire_truck' is none of the classes (cat, dog)"),
        ((".", "--preset", "dogs"), "unknown preset 'dogs'; choose one of food,"),
        ((".", "--keep", "1"), "samples 2,4 and keep 1 must name the same stages"),
        ((".", "--budget", "9"), "--budget has no meaning for --method fixed"),
        ((".", "--method", "racing"), "--keep has no meaning for --method racing"),
        ((".", "--confidence", "0.9"), "--confidence has no meaning for --method fixed"),
        ((".", "--size", "63"), "both sides must be multiples of 8"),
        ((".", "--noise", "n.npy"), "the noise file n.npy"),
        ((".", "--prompts", "p.csv"), "no prompt table or file 'p.csv'"),
        ((".", "--template", "a photo"), "no template file or set 'a photo'; give a sentence with {}"),
        ((".", "--template", "a {} {}"), "must contain {} once"),
        (("--classes", "cat,dog"), "nothing to classify; name image files or folders, or --dataset NAME"),
        ((".", "--per-class", "2"), "--per-class belongs to --dataset NAME"),
        ((".", "--dataset", "folder", "--root", "."), "--dataset brings its images and classes; leave out IMAGES"),
        (("--dataset", "folder"), "--dataset folder needs --root DIR"),
        ((".", "--template", "very " * 90 + "{}"), "tokens and 77 fit; shorten the class name or its template"),
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--samples", "2,4"), "--samples of --method racing is one number, such as --samples 4"),
        (("--confidence", "1"), "a confidence of 1.0 is not between 0.5 and 1"),
        (("--budget", "6"), "a budget of 6 evaluations per image is less than the first 4 samples of 2 candidates"),
        (("--method", "exhaustive", "--confidence", "0.9"), "--confidence has no meaning"),
        (("--method", "exhaustive", "--budget", "100"), "--budget has no meaning for --method exhaustive"),
    ],
)
def test_bad_racing_options_get_one_sentence(run, folder, arguments, sentence):
    status, _, complaint = run(folder, *arguments, stages=())
    assert status == 2
    assert sentence in complaint


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_and_counts_alike(run, folder, tmp_path, method):
    stages = STAGES if method == "fixed" else ("--samples", "16")
    run(folder / "cat" / "0.png", "--classes", "cat,dog", "--method", method, stages=stages)
    (record,) = _records(tmp_path / "out")
    assert record["label"] in ("cat", "dog")
    assert record["evaluations"] == sum(record["samples"].values())


def test_choices_of_the_help_are_those_of_the_library():
    parser = argparse.ArgumentParser()
    classify.add_arguments(parser)
    actions = {action.dest: action for action in parser._actions}
    assert tuple(actions["pool"].choices) == POOLS
    assert tuple(actions["loss"].choices) == (*LOSSES, *BOUNDS)
    assert tuple(actions["interpolation"].choices) == tuple(INTERPOLATIONS)
    assert all(table in actions["prompts"].help for table in TABLES)
    assert all(name in actions["template"].help for name in TEMPLATE_SETS)


def test_help_needs_no_torch():
    code = (
        "import sys, perception.commands.classify.command, perception.commands.sweep; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_every_kind(run, folder, tmp_path, odd_pictures, shown):
    names = odd_pictures(folder / "cat")
    (folder / "fire_truck").rename(folder / "fire\x1b[31m truck")
    status, told, complaint = run(folder, "--save-errors", "--error-maps", "--error-map-samples", 1)
    assert status == 0 and shown(told) and shown(complaint) and "fire\\x1b[31m truck" in told
    lines = {line["id"]: line for line in map(json.loads, (tmp_path / "out/manifest.jsonl").read_text().splitlines())}
    outputs = [path for name in names for path in lines[f"cat/{name}"]["output"]]
    assert len(set(outputs)) == 2 * len(names) and all((tmp_path / "out" / path).is_file() for path in outputs)
