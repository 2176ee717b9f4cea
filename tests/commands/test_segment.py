"""`perception segment` on tiny models."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from perception.commands.main import main
from perception.jobs import images as results
from perception.jobs.plan import Measurement

CLASSES = ["road", "sky", "traffic light"]
PALETTE = [[128, 64, 128], [70, 130, 180], [250, 170, 30]]


@pytest.fixture(scope="session")
def semantic_model(tiny_sd, tmp_path_factory):
    """The artifact folder of an untrained semantic head on the tiny Stable Diffusion, for 64 x 64 pixels."""
    backbone = {"type": "perception.DiffusionFeatures", "name": str(tiny_sd), "taps": ["up_blocks.3", "up_blocks.1"]}
    return exported(backbone, tmp_path_factory.mktemp("semantic") / "model")


def exported(backbone, folder):
    from perception.training.config.channels import with_channels
    from perception.training.export.mmseg_model import export_model
    from perception.training.registry import MODELS

    head = {"type": "FCNHead", "in_index": 0, "channels": 8, "num_classes": 3, "num_convs": 1}
    config = with_channels(
        {
            "type": "EncoderDecoder",
            "backbone": backbone,
            "decode_head": head,
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )
    export_model(
        MODELS.build(config), config, {"classes": CLASSES, "palette": PALETTE}, folder, (64, 64), {"mIoU": 1.0}
    )
    return folder


@pytest.fixture(scope="session")
def vpd_model(tiny_sd, tmp_path_factory):
    """The same on VPD told the class names."""
    backbone = {"type": "perception.VPDFeatures", "name": str(tiny_sd), "names": CLASSES}
    return exported(backbone, tmp_path_factory.mktemp("vpd") / "model")


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (50 + number, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def segment(photos, semantic_model, tmp_path):
    """Run the command on the photos; later arguments win."""

    def run(*arguments, out="out", model=semantic_model):
        command = ["segment", str(photos), "--model", str(model), "--device", "cpu", "--no-progress"]
        return main([*command, "--out", str(tmp_path / out), *map(str, arguments)])

    return run


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out):
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_labels_overlays_and_areas(segment, photos, tmp_path, capsys):
    assert segment() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("a.png      ") and " %" in printed[0] and "3 done, 0 already there" in printed[-1]
    lines = manifest(tmp_path / "out")
    assert [line["output"] for line in lines] == [
        ["labels/a.png", "overlays/a.png"],
        ["labels/b.jpg.png", "overlays/b.jpg.png"],
        ["labels/sub/c.png", "overlays/sub/c.png"],
    ]
    for line in lines:
        labels = Image.open(tmp_path / "out" / line["output"][0])
        assert labels.mode == "P" and labels.getpalette()[:9] == np.ravel(PALETTE).tolist()
        ids = np.asarray(labels)
        assert line["size"] == list(ids.shape) and ids.shape[1] == 90
        shares = {name: (ids == number).mean() for number, name in enumerate(CLASSES) if (ids == number).any()}
        assert line["areas"] == pytest.approx(shares, abs=1e-6)
        picture = np.asarray(Image.open(photos / line["id"]).convert("RGB"))
        mixed = np.rint(0.4 * picture + 0.6 * np.asarray(labels.convert("RGB")))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["output"][1])), mixed)


def test_the_labels_are_those_of_the_model(segment, semantic_model, photos, tmp_path):
    from perception.training.export.mmseg_model import SegmentationModel

    assert segment("--no-overlay") == 0
    wanted = SegmentationModel.from_pretrained(semantic_model).predict(Image.open(photos / "a.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "labels" / "a.png")), wanted)
    assert not (tmp_path / "out" / "overlays").exists()


def test_chosen_classes_alone_are_measured_and_drawn(segment, photos, tmp_path):
    assert segment("--classes", "sky,road") == 0
    for line in manifest(tmp_path / "out"):
        ids = np.asarray(Image.open(tmp_path / "out" / line["output"][0]))
        assert set(line["areas"]) == {CLASSES[number] for number in {0, 1} & set(ids.flat)}
        picture = np.asarray(Image.open(photos / line["id"]).convert("RGB"))
        drawn = np.asarray(Image.open(tmp_path / "out" / line["output"][1]))
        assert np.array_equal(drawn[ids == 2], picture[ids == 2])


def test_a_map_per_class_name(segment, vpd_model, photos, tmp_path):
    assert segment("--maps", model=vpd_model) == 0
    assert [line["output"][0] for line in manifest(tmp_path / "out")] == [
        "labels/a.png",
        "labels/b.jpg.png",
        "labels/sub/c.png",
    ]
    names = sorted(path.name for path in (tmp_path / "out" / "maps" / "b.jpg").iterdir())
    assert names == ["road.png", "sky.png", "traffic-light.png"]
    drawn = [np.asarray(Image.open(tmp_path / "out" / "maps" / "a.png" / name)) for name in names]
    assert drawn[0].shape == (50, 90, 3) and (drawn[0] != drawn[1]).any()
    assert segment("--maps", "--classes", "sky", model=vpd_model, out="one") == 0
    assert [path.name for path in (tmp_path / "one" / "maps" / "b.jpg").iterdir()] == ["sky.png"]


def test_resume_and_batch_size_change_no_byte(segment, tmp_path, capsys):
    assert segment() == 0
    before = files(tmp_path / "out")
    (tmp_path / "out" / "labels" / "b.jpg.png").unlink()
    manifest_file = tmp_path / "out" / "manifest.jsonl"
    manifest_file.write_bytes(b"".join(manifest_file.read_bytes().splitlines(keepends=True)[:2]))  # as after a kill
    capsys.readouterr()
    assert segment("--batch-size", "3", "--workers", "3") == 0
    assert "2 done, 1 already there" in capsys.readouterr().out
    assert files(tmp_path / "out") == before


def test_a_bad_file_costs_one_line(segment, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    assert segment() == 1
    (line,) = [line for line in manifest(tmp_path / "out") if line["status"] == "failed"]
    assert line["id"] == "broken.png" and "is not an image that Pillow can read" in line["reason"]
    assert "3 done, 0 already there, 1 failed" in capsys.readouterr().out


def test_another_model_or_size_needs_another_out(segment, capsys):
    assert segment() == 0
    assert segment("--size", "128") == 2
    assert "with size = None (now [128, 128]); choose another --out" in capsys.readouterr().err


def test_a_dry_run_says_why_no_image_can_be_read(segment, photos, capsys):
    for path in (path for path in photos.rglob("*") if path.is_file()):
        path.write_bytes(b"no picture")
    assert segment("--dry-run") == 2
    error = capsys.readouterr().err
    assert "None of the 3 images can be read; the first: " in error and "a.png is not an image" in error


def test_dry_run_writes_nothing(segment, photos, tmp_path, capsys):
    (photos / "a.png").write_bytes(b"no image")  # the plan takes the next one
    assert segment("--dry-run") == 0
    printed = capsys.readouterr().out
    assert "items  3\ndenoiser evaluations  3\n" in printed and "FLOP" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--text", "the road"],
            "is a semantic model with 3 classes of its own, which takes no --text; leave --text out",
        ),
        (["--classes", "road,skye"], "has no class 'skye'; did you mean 'sky'?"),
        (["--classes", "zebra"], "has no class 'zebra'; choose among road, sky, traffic light."),
        (["--size", "100"], "size 100x100 does not fit: both sides must be multiples of 64; try 128x128."),
        (["--model", "/nowhere"], "/nowhere is no folder; name the folder of a trained model"),
        (["--maps"], "this model reads no attention maps; leave --maps out"),
        (["--device", "abacus"], "'abacus' is not a device"),
        (["--backbone", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(segment, tmp_path, capsys, arguments, sentence):
    assert segment(*arguments) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perception: ")]
    assert len(printed) == 1 and sentence in printed[0]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_broken_model_folders(segment, semantic_model, tmp_path, capsys):
    folder = shutil.copytree(semantic_model, tmp_path / "model")
    (folder / "config.json").write_text("{}")
    assert segment(model=folder) == 2 and "describes no model of perception" in capsys.readouterr().err
    (folder / "config.json").write_text("{")
    assert segment(model=folder) == 2 and "config.json is broken" in capsys.readouterr().err
    (folder / "config.json").write_text('{"task": "depth"}')
    assert segment(model=folder) == 2 and "is a depth model; use `perception depth`" in capsys.readouterr().err
    (folder / "model.safetensors").unlink()
    assert segment(model=folder) == 2 and "model.safetensors is missing" in capsys.readouterr().err


def test_images_that_would_share_a_result(segment, photos, capsys):
    shutil.copy(photos / "a.png", photos / "b.jpg.png")
    assert segment() == 2
    assert "b.jpg and b.jpg.png would have one result, b.jpg.png; rename one of them." in capsys.readouterr().err


def test_a_moved_backbone_is_named(segment, semantic_model, tiny_sd, tmp_path):
    moved = shutil.copytree(tiny_sd, tmp_path / "moved")
    assert segment("--backbone", moved) == 0 and segment(out="plain") == 0
    assert (tmp_path / "out" / "labels" / "a.png").read_bytes() == (tmp_path / "plain/labels/a.png").read_bytes()


@pytest.fixture(scope="session")
def referring_model(tiny_sd, tmp_path_factory):
    """The artifact folder of an untrained referring network on the tiny Stable Diffusion, for 64 x 64 pixels."""
    from perception.segmentation.referring import ReferringNet

    folder = tmp_path_factory.mktemp("referring") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ReferringNet(str(tiny_sd), length=12, hidden=8, image_size=(64, 64)).save_pretrained(folder)
    return folder


TEXTS = ["the red car's bumper", "Sky!"]


@pytest.fixture
def refer(segment, referring_model):
    """Run the command with two sentences; later arguments win."""
    told = [part for text in TEXTS for part in ("--text", text)]
    return lambda *arguments, **places: segment(*told, *arguments, **{"model": referring_model, **places})


def test_masks_overlays_and_records_of_sentences(refer, photos, referring_model, tmp_path, capsys):
    from perception.segmentation.predictor import ReferringPredictor

    assert refer() == 0
    assert f'"{TEXTS[0]}" ' in capsys.readouterr().out.splitlines()[0]
    predictor = ReferringPredictor(referring_model)
    for line in manifest(tmp_path / "out"):
        folders = [f"{kind}/{line['id']}" for kind in ("masks", "overlays")]
        names = ("0-the-red-car-s-bumper.png", "1-sky.png")
        assert line["output"] == [f"{folder}/{name}" for folder in folders for name in names]
        image = Image.open(photos / line["id"]).convert("RGB")
        for record, wanted in zip(line["found"], predictor(image, TEXTS), strict=True):
            mask = np.asarray(Image.open(tmp_path / "out" / record["mask"]))
            assert np.array_equal(mask, wanted.mask * np.uint8(255)) and line["size"] == list(mask.shape)
            assert record["text"] == wanted.text and record["area"] == pytest.approx(wanted.area, abs=1e-6)
            assert record["score"] == (None if wanted.score is None else pytest.approx(wanted.score, abs=1e-4))


def test_a_map_per_word(refer, tmp_path):
    assert refer("--maps", "--no-overlay") == 0
    names = sorted(path.name for path in (tmp_path / "out" / "maps" / "b.jpg" / "0-the-red-car-s-bumper").iterdir())
    assert names == ["0-the.png", "1-red.png", "2-car-s.png", "3-bumper.png"]
    assert Image.open(tmp_path / "out" / "maps" / "b.jpg" / "1-sky" / "0-sky.png").size == (90, 51)


def test_sentences_resume_and_belong_to_out(refer, segment, referring_model, tmp_path, capsys):
    assert refer() == 0
    before = files(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "masks" / "b.jpg")
    assert refer("--batch-size", "2") == 0 and files(tmp_path / "out") == before
    assert "1 done, 2 already there" in capsys.readouterr().out
    assert segment("--text", "a dog", model=referring_model) == 2
    assert "(now ['a dog']); choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "is a referring model, which needs a sentence; add --text"),
        (["--text", "  "], "A --text is empty; write what to find"),
        (["--text", "one two three four five six seven eight nine ten eleven twelve"], "tokens and 12 fit; shorten it"),
    ],
)
def test_mistakes_with_sentences(segment, referring_model, tmp_path, capsys, arguments, sentence):
    assert segment(*arguments, model=referring_model) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("perception: ")]
    assert len(printed) == 1 and sentence in printed[0]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_the_plan_counts_sentences(refer, capsys):
    assert refer("--dry-run") == 0
    assert "denoiser evaluations  6\n" in capsys.readouterr().out


def test_without_a_model_the_missing_one_is_named(photos, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("perception.commands.models.SHIPPED", tmp_path)
    assert main(["segment", str(photos), "--text", "a car"]) == 2
    assert "this installation has no referring one; add --model FOLDER." in capsys.readouterr().err


def test_the_planned_memory_is_that_of_one_image(segment, monkeypatch, capsys):
    """Images go through the network one by one."""
    monkeypatch.setattr(results, "measure", lambda call, device, once: call() or Measurement(1.0, 1.0, 0.0, 2.0**20))
    assert segment("--dry-run", "--batch-size", "3") == 0
    assert "memory  about 1 MiB" in capsys.readouterr().out


def test_out_among_the_photos_would_be_read_the_next_time(segment, photos, capsys):
    assert segment("--out", photos) == 2
    assert "is the folder of the images, to which the job's own pictures would be added" in capsys.readouterr().err


def test_names_of_every_kind(segment, photos, tmp_path, capsys, odd_pictures, shown):
    names = odd_pictures(photos / "odd")
    (photos / "odd" / "\x1b]0;bad\a.png").write_bytes(b"")
    assert segment() == 1
    told = capsys.readouterr()
    assert shown(told.out) and shown(told.err) and "\\x1b]0;bad\\x07.png is empty" in told.out
    lines = {line["id"]: line for line in manifest(tmp_path / "out") if line["status"] == "done"}
    outputs = [path for name in names for path in lines[f"odd/{name}"]["output"]]
    assert len(set(outputs)) == 2 * len(names) and all((tmp_path / "out" / path).is_file() for path in outputs)
    before = files(tmp_path / "out")
    assert segment() == 1 and files(tmp_path / "out") == before


def test_an_image_and_a_folder_of_one_result_are_refused_before_the_job(segment, photos, tmp_path, capsys):
    (photos / "b.jpg.png").mkdir()
    shutil.copy(photos / "a.png", photos / "b.jpg.png" / "c.png")
    assert segment() == 2 and not (tmp_path / "out").exists()
    assert "the result of b.jpg would be b.jpg.png, the folder of that of b.jpg.png/c.png" in capsys.readouterr().err
