"""`perception depth` on tiny models."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from perception.commands.main import main
from perception.depth.net import DepthNet
from perception.depth.predictor import DepthPredictor


def saved(folder, tiny_sd, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = {"fusion_channels": 32, "num_filters": (8, 8, 8), "decoder_channels": 8}
        DepthNet(str(tiny_sd), **widths, **arguments).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def depth_model(tiny_sd, tmp_path_factory):
    """The artifact folder of an untrained depth network that is told one of three rooms."""
    rooms = ("kitchen", "bath_room", "room")
    return saved(tmp_path_factory.mktemp("depth") / "model", tiny_sd, names=rooms, image_size=(64, 64))


@pytest.fixture(scope="session")
def caption_model(tiny_sd, tmp_path_factory):
    """The same, told a caption; for images of any size."""
    return saved(tmp_path_factory.mktemp("captions") / "model", tiny_sd, conditioning="captions", length=12)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    (root / "kitchen").mkdir(parents=True)
    for number, name in enumerate(("bath_room.png", "b.jpg", "kitchen/c.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (50 + number, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def depth(photos, depth_model, tmp_path):
    """Run the command on the photos; later arguments win."""

    def run(*arguments, out="out", model=depth_model):
        command = ["depth", str(photos), "--model", str(model), "--device", "cpu", "--no-progress"]
        return main([*command, "--out", str(tmp_path / out), *map(str, arguments)])

    return run


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out):
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_metres_as_pictures_arrays_and_figures(depth, depth_model, photos, tmp_path, capsys):
    assert depth("--npy") == 0
    assert " m, median " in capsys.readouterr().out.splitlines()[0]
    predictor = DepthPredictor(depth_model)
    lines = manifest(tmp_path / "out")
    assert lines[0]["output"] == ["arrays/b.jpg.npy", "colours/b.jpg.png", "depth/b.jpg.png"]
    for line in lines:
        metres, picture, colours = (tmp_path / "out" / path for path in (line["output"][i] for i in (0, 2, 1)))
        metres = np.load(metres)
        assert metres.dtype == np.float32 and np.array_equal(metres, predictor(Image.open(photos / line["id"])))
        millimetres = np.asarray(Image.open(picture))
        assert millimetres.dtype == np.uint16 and np.abs(millimetres / 1000 - metres).max() <= 0.00051
        assert line["size"] == list(metres.shape) == [*np.asarray(Image.open(colours)).shape[:2]]
        figures = [metres.min(), np.median(metres), metres.max()]
        assert [line[name] for name in ("min", "median", "max")] == pytest.approx(figures, abs=1e-4)


def test_rooms_are_found_in_folder_and_file_names(depth, depth_model, photos, tmp_path):
    assert depth("--room", "auto", "--npy") == 0 and depth("--room", "kitchen", "--npy", out="kitchen") == 0
    rooms = {line["id"]: line.get("room") for line in manifest(tmp_path / "out")}
    assert rooms == {"b.jpg": None, "bath_room.png": "bath_room", "kitchen/c.png": "kitchen"}
    array = "arrays/kitchen/c.png.npy"
    assert np.array_equal(np.load(tmp_path / "out" / array), np.load(tmp_path / "kitchen" / array))
    told = DepthPredictor(depth_model)(Image.open(photos / "b.jpg"), -1)
    assert np.array_equal(np.load(tmp_path / "out" / "arrays" / "b.jpg.npy"), told)


def test_captions_and_any_size(depth, caption_model, tmp_path):
    assert depth("--text", "a small room", "--no-colours", model=caption_model) == 0
    assert not (tmp_path / "out" / "colours").exists()
    sizes = {line["id"]: line["size"] for line in manifest(tmp_path / "out")}
    assert sizes == {"b.jpg": [51, 90], "bath_room.png": [50, 90], "kitchen/c.png": [52, 90]}


def test_windows_and_flip(depth, photos, depth_model, tmp_path):
    assert depth("--size", "64x90", "--windows", "2", "--flip", "--npy") == 0
    image = Image.open(photos / "bath_room.png")
    wanted = DepthPredictor(depth_model, (64, 90), windows=2, flip=True)(image)
    assert np.array_equal(np.load(tmp_path / "out" / "arrays" / "bath_room.png.npy"), wanted)
    mirrored = DepthPredictor(depth_model, (64, 90), windows=2, flip=True)(image.transpose(Image.FLIP_LEFT_RIGHT))
    assert np.abs(mirrored[:, ::-1] - wanted).max() < 1e-4


def test_resume_and_batch_size_change_no_byte(depth, tmp_path, capsys):
    assert depth() == 0
    before = files(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "depth" / "kitchen")
    assert depth("--batch-size", "3") == 0 and files(tmp_path / "out") == before
    assert "1 done, 2 already there" in capsys.readouterr().out


def test_a_bad_file_costs_one_line(depth, photos, capsys):
    (photos / "broken.png").write_bytes(b"")
    assert depth() == 1
    assert "broken.png: " in (printed := capsys.readouterr().out) and "is empty (0 bytes)" in printed


def test_dry_run(depth, tmp_path, capsys):
    assert depth("--dry-run", "--windows", "2", "--flip") == 0
    assert "denoiser evaluations  12\n" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--room", "kitschen"], "The model knows no room 'kitschen'; did you mean 'kitchen'?"),
        (["--room", "xyz"], "The model knows no room 'xyz'; choose 'auto' or one of kitchen, bath_room, room."),
        (["--text", "a street"], "is not told captions; leave --text out."),
        (["--size", "4"], "size 4x4 is too small"),
        (["--backbone", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(depth, tmp_path, capsys, arguments, sentence):
    assert depth(*arguments) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perception: ")]
    assert len(printed) == 1 and sentence in printed[0]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_models_of_other_kinds(depth, caption_model, depth_model, tmp_path, capsys):
    assert depth(model=caption_model) == 2 and "is told what an image shows; add --text" in capsys.readouterr().err
    assert depth("--room", "kitchen", model=caption_model) == 2 and "is not told rooms" in capsys.readouterr().err
    folder = shutil.copytree(depth_model, tmp_path / "model")
    (folder / "config.json").write_text('{"task": "referring"}')
    assert depth(model=folder) == 2 and "is a referring model; use `perception segment`" in capsys.readouterr().err


def test_names_of_every_kind(depth, photos, tmp_path, capsys, odd_pictures, shown):
    names = odd_pictures(photos / "odd")
    assert depth("--npy") == 0 and shown(capsys.readouterr().out)
    lines = {line["id"]: line for line in manifest(tmp_path / "out")}
    outputs = [path for name in names for path in lines[f"odd/{name}"]["output"]]
    assert len(set(outputs)) == 3 * len(names) and all((tmp_path / "out" / path).is_file() for path in outputs)
