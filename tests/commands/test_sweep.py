"""`perception sweep` from a labelled folder to a table, CSV and heat map."""

import csv

import numpy as np
import pytest
from PIL import Image

from perception.backbones import DiffusionBackbone
from perception.commands.main import main


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images that differ in brightness."""
    random = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(random.normal(level, 5, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def run(tiny_sd, tmp_path, capsys):
    def call(*arguments):
        out = ["--out", str(tmp_path / "out"), "--size", "64", "--device", "cpu", "--no-progress", "--folds", "2"]
        status = main(["sweep", "--backbone", str(tiny_sd), *out, *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_table_csv_picture_and_best_cell(run, folder, tmp_path):
    (folder / "dark" / "bad.png").write_bytes(b"")
    status, printed, complaint = run(folder, "--taps", "latent,mid_block", "--timesteps", "50,500", "--batch-size", 3)
    assert status == 1
    assert complaint.count("left out:") == 1
    assert "bad.png is empty" in complaint
    with open(tmp_path / "out" / "sweep.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [(c["tap"], c["timestep"], c["probe"]) for c in cells][:3] == [
        ("latent", "50", "linear"),
        ("latent", "50", "knn"),
        ("latent", "500", "linear"),
    ]
    assert len(cells) == 2 * 2 * 2
    assert float(cells[0]["accuracy"]) == 1.0  # brightness stands in the mean latent
    assert "best: latent at timestep 50 with the linear probe, 100.0 %" in printed
    assert Image.open(tmp_path / "out" / "sweep.png").size[0] > 200


def test_a_second_sweep_reads_the_store_and_computes_only_what_is_new(run, folder, monkeypatch):
    steps = []
    compute = DiffusionBackbone.features

    def counted(self, *args, **kwargs):
        steps.append(kwargs["spec"].timesteps)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionBackbone, "features", counted)
    monkeypatch.setattr(DiffusionBackbone, "encode", _once(DiffusionBackbone.encode))
    _, first, _ = run(folder, "--taps", "mid_block", "--timesteps", "50")
    _, again, _ = run(folder, "--taps", "mid_block", "--timesteps", "50")
    assert steps == [(50,)]
    assert again == first
    run(folder, "--taps", "mid_block", "--timesteps", "50,500")
    assert steps == [(50,), (500,)]


def _once(encode):
    """Latents, too, come from the store after the first batch."""
    calls = []

    def counted(self, images):
        calls.append(len(images))
        assert len(calls) == 1
        return encode(self, images)

    return counted


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--folds", "5"), "5-fold cross-validation needs"),
        (("--probe", "forest"), "unknown probe 'forest'; choose from linear, ridge, knn"),
        (("--taps", "up_blocks.9"), "up_blocks.9"),
        (("--timesteps", "1000"), "timestep 1000 is outside"),
        (("--size", "60"), "both sides must be multiples of 8"),
    ],
)
def test_bad_options_get_one_sentence(run, folder, arguments, sentence):
    status, _, complaint = run(folder, *arguments)
    assert status == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_one_class_is_refused(run, folder):
    for image in (folder / "light").iterdir():
        image.rename(folder / "dark" / f"light{image.name}")
    (folder / "light").rmdir()
    status, _, complaint = run(folder)
    assert (status, "at least two classes, but the folder has 1" in complaint) == (2, True)


def test_a_data_set_on_a_class_conditional_model(folder, tmp_path, capsys):
    """Guidance nothing (the null class), whatever the names of the folders are."""
    options = ["--out", str(tmp_path / "out"), "--device", "cpu", "--no-progress", "--folds", "2", "--timesteps", "50"]
    arguments = ["--dataset", "folder", "--root", str(folder), "--per-class", "3"]
    assert main(["sweep", "--backbone", "mini-dit", *options, *arguments]) == 0
    assert "best: latent at timestep 50 with the linear probe, 100.0 %" in capsys.readouterr().out
    with open(tmp_path / "out" / "sweep.csv", newline="") as file:
        taps = [cell["tap"] for cell in csv.DictReader(file)][::2]
    assert taps == ["latent", *(f"transformer_blocks.{i}" for i in range(6))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is nothing to probe; name a folder"),
        ((".", "--dataset", "folder", "--root", "."), "--dataset brings its images; leave out FOLDER"),
        ((".", "--per-class", "3"), "--per-class belongs to --dataset NAME"),
    ],
)
def test_a_folder_or_a_data_set(run, folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    status, _, complaint = run(*arguments)
    assert (status, sentence in complaint) == (2, True)


def test_out_may_lie_in_the_folder(run, folder):
    """Its picture was a class of one image to the next run."""
    arguments = ("--taps", "latent", "--timesteps", "50", "--out", folder / "sweep")
    assert run(folder, *arguments)[0] == 0
    assert run(folder, *arguments)[0] == 0


def test_names_of_every_kind(run, folder, odd_pictures, shown):
    odd_pictures(folder / "light")
    (folder / "dark" / "\x1b[2J.png").write_bytes(b"")
    status, told, complaint = run(folder, "--taps", "latent", "--timesteps", "50", "--probe", "ridge")
    assert status == 1 and shown(told + complaint) and "\\x1b[2J.png is empty" in complaint
