"""A finished job that is run again loads no model; whatever changed since, it is noticed as before."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import perception.backbones.loading.load as loading
from perception.commands.main import main
from perception.training.models.frozen import shared_backbone

FAST = ("--device", "cpu", "--no-progress")


@pytest.fixture
def images(tmp_path):
    """Two classes of one picture each."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "0.png")
    return tmp_path / "images"


@pytest.fixture
def model(tiny_sd, tmp_path):
    """A model folder of this test's own."""
    shutil.copytree(tiny_sd, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def built(monkeypatch):
    """Parts of models that were built."""
    calls = []
    real = loading.build_model

    def counted(key, *arguments):
        calls.append(key)
        return real(key, *arguments)

    monkeypatch.setattr(loading, "build_model", counted)
    shared_backbone.cache_clear()  # which other tests of this process may have filled
    return calls


@pytest.fixture
def extract(images, model, tmp_path, built, capsys):
    """Run the command; status, what was printed, and whether a model was loaded."""

    def run(*arguments):
        built.clear()
        command = ["extract", images, "--backbone", model, "--taps", "mid_block", "--size", "64", *FAST]
        status = main([*map(str, command), "--out", str(tmp_path / "out"), *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err, bool(built)

    return run


def test_no_model_is_loaded_again(extract, tmp_path):
    assert extract()[2]
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    status, printed, loaded = extract()
    assert (status, loaded) == (0, False) and "0 done, 2 already there, 0 failed" in printed
    assert not extract("--batch-size", "3", "--workers", "1")[2], "neither of them changes a result"
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tmp: os.utime(tmp / "model/unet/diffusion_pytorch_model.safetensors"), "0 done, 2 already there"),
        (lambda tmp: shutil.copytree(tmp / "images/cat", tmp / "images/cow"), "1 done, 2 already there"),
        (lambda tmp: (tmp / "images/dog/0.png").unlink(), "0 done, 1 already there"),
        (lambda tmp: shutil.copy(tmp / "images/cat/0.png", tmp / "images/dog/0.png"), "1 done, 1 already there"),
        (lambda tmp: (tmp / "images/dog/0.png").write_bytes(b"no picture"), "1 already there, 1 failed"),
        (lambda tmp: shutil.rmtree(tmp / "out/shards"), "2 done, 0 already there"),
        (lambda tmp: (tmp / "out/manifest.jsonl").unlink(), "2 done, 0 already there"),
        (lambda tmp: (tmp / "out/.finished.lock").write_text("[[["), "0 done, 2 already there"),
    ],
)
def test_what_changed_is_noticed(extract, tmp_path, change, said):
    extract()
    change(tmp_path)
    _, printed, loaded = extract()
    assert loaded and said in printed


def test_other_options_and_models_are_another_job(extract, tmp_path, edit):
    extract()
    status, printed, _ = extract("--timesteps", "60")
    assert status == 2 and "holds results made with timesteps = [50] (now [60])" in printed
    edit(tmp_path / "model/scheduler/scheduler_config.json", beta_end=0.011)
    status, printed, _ = extract()
    assert status == 2 and "holds results made with another model" in printed


def test_a_failed_item_is_tried_again(extract, images):
    (images / "dog/0.png").write_bytes(b"no picture")
    assert extract()[0] == 1
    status, _, loaded = extract()
    assert status == 1 and loaded


def test_a_model_in_another_folder_is_the_same_job(extract, tmp_path, model):
    extract()
    shutil.copytree(model, tmp_path / "moved")
    status, printed, loaded = extract("--backbone", tmp_path / "moved")
    assert status == 0 and loaded and "2 already there" in printed
    assert not extract("--backbone", tmp_path / "moved")[2]


@pytest.mark.parametrize(
    "command",
    [
        ["classify", "IMAGES", "--backbone", "MODEL", "--size", "64", "--samples", "1", "--keep", "1"],
        ["match", "IMAGES", "--captions", "CAPTIONS", "--backbone", "MODEL", "--size", "64", "--samples", "1"],
    ],
)
def test_it_holds_for_comparisons(command, images, model, tmp_path, built, capsys):
    (tmp_path / "captions.txt").write_text("a cat\na dog\n")
    places = {"IMAGES": images, "MODEL": model, "CAPTIONS": tmp_path / "captions.txt"}
    arguments = [str(places.get(word, word)) for word in command] + [*FAST, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0 and built
    told = capsys.readouterr().out
    built.clear()
    assert main(arguments) == 0 and not built
    again = capsys.readouterr().out
    assert again.splitlines()[:-1] == told.splitlines()[:-1] and "0 done, 2 already there" in again
    if command[0] == "match":
        (tmp_path / "captions.txt").write_text("a cat\na cow\n")
        assert main(arguments) == 0 and built and "2 done" in capsys.readouterr().out


def test_a_finished_classification_is_told_without_diffusers(images, tmp_path):
    arguments = ["classify", str(images), "--size", "64", "--samples", "1", *FAST, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    code = (
        "import sys; from perception.commands.main import main; main(sys.argv[1:]); print('diffusers' in sys.modules)"
    )
    again = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "0 done, 2 already there" in again.stdout and again.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", ["segment", "depth"])
def test_it_holds_for_trained_heads(command, images, tmp_path, built, capsys):
    arguments = [command, str(images), "--size", "64", *FAST, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0 and built
    built.clear()
    assert main(arguments) == 0 and not built
    assert "0 done, 2 already there" in capsys.readouterr().out
    next((tmp_path / "out").rglob("*.png")).unlink()
    assert main(arguments) == 0 and "1 done, 1 already there" in capsys.readouterr().out
