"""`perception generate` on tiny models."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception.backbones.loading.build import randomize
from perception.commands.generate.options import PRESETS
from perception.commands.main import main
from perception.generation import CITYSCAPES, new_control
from perception.generation import PRESETS as ALL_PRESETS
from perception.generation.generator import SceneGenerator
from perception.generation.publishing.dataset_card import dataset_card, licence_of
from perception.generation.samples import read_label_map
from perception.generation.sampling import RareClassSampler, read_statistics

SMALL = ["--size", "64", "--steps", "2", "--window", "8", "--stride", "4", "--held-area", "800", "--rescale", "1"]
STATISTICS = ("sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json")
BESIDE = {*STATISTICS, "samples.txt"}


def saved_control(backbone, channels, folder):
    """The folder of a control network that changes something."""
    control = new_control(backbone, channels)
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        randomize(part, str(channels))
    with torch.no_grad():
        for weight in control.controlnet_cond_embedding.parameters():
            weight.mul_(2.5)
    control.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def control(tiny_backbone, tmp_path_factory):
    return saved_control(tiny_backbone, 20, tmp_path_factory.mktemp("control") / "labels")


@pytest.fixture(scope="session")
def depth_control(tiny_backbone, tmp_path_factory):
    return saved_control(tiny_backbone, 1, tmp_path_factory.mktemp("control") / "depth")


def street(number):
    """Sky, building, road, a car and ignored pixels, 80 x 96."""
    labels = np.full((80, 96), 10, np.uint8)
    labels[25:50], labels[50:] = 2, 0
    labels[55:68, 20 + number : 50] = 13
    labels[60:, :30] = 255
    return labels


@pytest.fixture
def maps(tmp_path):
    root = tmp_path / "maps"
    (root / "town").mkdir(parents=True)
    for number, name in enumerate(("a_labelTrainIds.png", "town/b_labelTrainIds.png")):
        Image.fromarray(street(number)).save(root / name)
    return root


@pytest.fixture
def generate(maps, control, tiny_sd, tmp_path):
    """Run the command on the maps; later arguments win."""

    def run(*arguments, out="out", labels=maps):
        command = ["generate", "--labels", labels, "--control", control, "--backbone", tiny_sd, "--device", "cpu"]
        return main([*map(str, command), "--no-progress", *SMALL, "--out", str(tmp_path / out), *map(str, arguments)])

    return run


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out):
    paths = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def reason(capsys):
    return capsys.readouterr().err.removeprefix("perception: ").strip()


def test_a_ready_data_set_with_provenance(generate, maps, tmp_path, capsys):
    licences = ["--licence", "labels=research only", "--licence", "control=CC-BY-SA-4.0"]
    assert generate("--per-label", "2", "--domains", "night,none", "--rescale", "1.5", *licences) == 0
    out = tmp_path / "out"
    assert "4 samples in the data set (class names alone 2, night 2)" in capsys.readouterr().out
    lines = manifest(out)
    assert [line["id"] for line in lines] == ["a_0", "a_1", "town/b_0", "town/b_1"]
    for line in lines:
        image, labels = (Image.open(out / path) for path in line["output"])
        assert (image.mode, image.size, labels.mode, labels.size) == ("RGB", (64, 64), "L", (64, 64))
        source, (left, top, right, bottom) = maps / line["source"], line["box"]
        assert np.array_equal(np.asarray(labels), np.asarray(Image.open(source))[top:bottom, left:right])
        assert 255 in np.asarray(labels)
        assert line["hash"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert line["hashes"] == {p: hashlib.sha256((out / p).read_bytes()).hexdigest() for p in line["output"]}
        assert line["class_pixels"] == {str(c): int((np.asarray(labels) == c).sum()) for c in (0, 2, 10, 13)}
        assert line["licences"] == {"backbone": "unknown", "controls": ["CC-BY-SA-4.0"], "labels": "research only"}
        assert line["sampler"]["steps"] == 2 and line["safety_checker"] == "off" and line["versions"]["perception"]
        assert line["prompt"].startswith("road building sky car") == (line["domain"] is None)
    assert {(line["id"][:-2], line["domain"]) for line in lines} == {
        (stem, domain) for stem in ("a", "town/b") for domain in ("night", None)
    }
    card = (out / "README.md").read_text()
    assert all(
        text in card for text in ("CC-BY-SA-4.0", "research only", "| night | 2 |", "BaseSegDataset", "| car | 4 |")
    )
    assert Image.open(out / "preview.png").size == (2 * 3 * 192, 2 * 192)
    lines[-1]["versions"]["torch"] = "9.9"
    assert f"- torch {lines[0]['versions']['torch']}, 9.9\n" in dataset_card(lines, 0, CITYSCAPES.names)


def test_statistics_are_of_the_generated_labels_and_can_be_drawn_from(generate, tmp_path):
    assert generate() == 0
    out = tmp_path / "out"
    rows, by_file, by_class = (json.loads((out / name).read_text()) for name in STATISTICS)
    assert [row["file"] for row in rows] == ["labels/a_0_labelTrainIds.png", "labels/town/b_0_labelTrainIds.png"]
    assert all((out / row["file"]).is_file() and by_file[row["file"]]["0"] == row["0"] for row in rows)
    assert list(by_class) == ["0", "2", "10", "13"] and by_class["13"][0] == [rows[0]["file"], rows[0]["13"]]
    assert RareClassSampler(read_statistics(rows), min_pixels=10).select(2, np.random.default_rng(0))


def test_mmseg_reads_it(generate, tmp_path):
    from mmseg.datasets import BaseSegDataset

    assert generate() == 0
    out = tmp_path / "out"
    (out / "images" / "orphan.png").write_bytes((out / "images" / "a_0.png").read_bytes())
    found: dict = {}
    exec((out / "README.md").read_text().split("```python")[1].split("```")[0], found)
    options = found["train_dataset"] | {"data_root": str(out)}
    made = BaseSegDataset(**{key: value for key, value in options.items() if key not in ("type", "pipeline")})
    pairs = [(made.get_data_info(i)["img_path"], made.get_data_info(i)["seg_map_path"]) for i in range(len(made))]
    assert len(pairs) == 2 and all(os.path.isfile(path) for pair in pairs for path in pair)
    assert made.metainfo["classes"] == CITYSCAPES.names


def test_deleted_samples_that_are_not_asked_for_are_left_out(generate, tmp_path, capsys):
    assert generate("--per-label", "2") == 0
    out = tmp_path / "out"
    (out / "images" / "a_1.png").unlink()
    (out / "labels" / "a_1_labelTrainIds.png").unlink()
    assert generate() == 0
    assert "left out: 1 samples of earlier runs whose files are gone, first a_1" in capsys.readouterr().out
    assert (out / "samples.txt").read_text().split() == ["a_0", "town/b_0", "town/b_1"]
    assert "3 samples of 2 label maps" in (out / "README.md").read_text()
    assert main(["generate", "--verify", str(out)]) == 0


def test_a_rerun_does_nothing_and_more_repetitions_extend(generate, tmp_path, capsys):
    assert generate("--domains", "fog,rain,snow") == 0
    first = files(tmp_path / "out")
    assert generate("--domains", "fog,rain,snow") == 0
    assert "0 done, 2 already there" in capsys.readouterr().out and files(tmp_path / "out") == first
    assert generate("--domains", "fog,rain,snow", "--per-label", "2") == 0
    assert "2 done, 2 already there" in capsys.readouterr().out
    assert generate("--domains", "fog,rain,snow", "--per-label", "2", out="whole") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert {k: v for k, v in first.items() if k.startswith("images/")}.items() <= files(tmp_path / "out").items()


def test_two_maps_and_two_domains_make_one_of_each(generate, tmp_path):
    for seed in ("0", "1", "2"):
        assert generate("--domains", "night,fog", "--steps", "1", "--rescale", "1", "--seed", seed, out=seed) == 0
        assert sorted(line["domain"] for line in manifest(tmp_path / seed)) == ["fog", "night"]


def test_another_option_or_seed_is_another_set(generate, tmp_path, capsys):
    assert generate() == 0
    assert generate("--steps", "3") == 2
    assert "sampler" in reason(capsys)
    assert generate("--seed", "1", out="other") == 0
    one, other = (files(tmp_path / name)["images/a_0.png"] for name in ("out", "other"))
    assert one != other


def test_a_changed_label_map_is_done_again(generate, maps, tmp_path, capsys):
    assert generate() == 0
    Image.fromarray(street(5)).save(maps / "a_labelTrainIds.png")
    assert generate() == 0
    assert "1 done, 1 already there" in capsys.readouterr().out
    assert main(["generate", "--verify", str(tmp_path / "out")]) == 0


def test_rare_classes_choose_maps_and_crops(generate, maps, tmp_path, capsys):
    rare = street(0)
    rare[30:40, 80:] = 11
    Image.fromarray(rare).save(maps / "c_labelTrainIds.png")
    assert generate("--rare-classes", "--count", "2", "--min-pixels", "50", "--temperature", "0.05") == 0
    lines = manifest(tmp_path / "out")
    assert len({line["source"] for line in lines}) == 2
    for line in lines:
        assert line["class_pixels"][str(CITYSCAPES.id_of(line["class"]))] > 0
    assert generate("--rare-classes", "--count", "9", "--min-pixels", "50", out="many") == 2
    assert "9 different label maps were asked for, but only 3" in reason(capsys)
    stats = tmp_path / "stats.json"
    stats.write_text(json.dumps([{"11": 160, "0": 900, "file": "/gta/c_labelTrainIds.png"}]))
    options = ("--rare-classes", "--count", "1", "--min-pixels", "50", "--statistics", stats)
    assert generate(*options, out="stated") == 0
    assert [line["class"] for line in manifest(tmp_path / "stated")] == ["person"]
    stats.write_text(json.dumps([{"11": 160, "file": "z.png"}]))
    assert generate(*options, out="wrong") == 2 and "not below --labels" in reason(capsys)


def test_class_statistics_are_counted_once(generate, maps, tmp_path, capsys, monkeypatch):
    (maps / "broken_labelTrainIds.png").write_bytes(b"no picture")
    stats = tmp_path / "kept" / "stats.json"
    options = ("--rare-classes", "--min-pixels", "50", "--statistics", stats, "--count")
    assert generate(*options, "9") == 2
    assert "left out: 1 label maps that cannot be used, the first one: the label map" in capsys.readouterr().err
    rows = json.loads(stats.read_text())
    assert [row["file"] for row in rows] == ["a_labelTrainIds.png", "town/b_labelTrainIds.png"]
    assert rows[0]["13"] == int((street(0) == 13).sum())
    monkeypatch.setattr("perception.commands.generate.statistics.count_labels", None)
    assert generate(*options, "2") == 0 and len(manifest(tmp_path / "out")) == 2


def test_another_autoencoder_and_random_weights_are_recorded(generate, tiny_sd, tmp_path):
    vae = tiny_sd / "vae"
    assert generate("--vae", vae, "--licence", "autoencoder=MIT", "--random-init-seed", "3") == 0
    out = tmp_path / "out"
    assert json.loads((out / "job.json").read_text())["options"]["random_init_seed"] == 3
    first = manifest(out)[0]
    assert first["model"]["vae"] == str(vae) and first["licences"]["autoencoder"] == "MIT"
    card = (out / "README.md").read_text()
    assert f"| autoencoder | {vae} | MIT |" in card and "random weights of seed 3" in card


def test_resized_label_maps(generate, maps, tmp_path, capsys):
    assert generate("--resize", "1.25,2", "--per-label", "3", "--around", "car") == 0
    lines = manifest(tmp_path / "out")
    assert {line["resize"] for line in lines} == {1.25, 2.0}
    for line in lines:
        with Image.open(maps / line["source"]) as source:
            large = source.resize((int(96 * line["resize"]), int(80 * line["resize"])), Image.Resampling.NEAREST)
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "out" / line["output"][1])), np.asarray(large.crop(line["box"]))
        )
    assert generate("--resize", "0.5", out="small") == 1
    assert "48 x 40 pixels and a crop of 64 x 64 does not fit" in manifest(tmp_path / "small")[0]["reason"]


def test_other_classes_templates_and_a_second_control(generate, maps, depth_control, tiny_backbone, tmp_path, capsys):
    names = ",".join(f"thing {i}" for i in range(19))
    (tmp_path / "depth" / "town").mkdir(parents=True)
    for name in ("a", "town/b"):
        pixels = np.random.default_rng(0).integers(0, 65536, (80, 96), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "depth" / f"{name}.png")
    second = ("--control", depth_control, "--control-images", tmp_path / "depth", "--control-scale", "1,0.5")
    options = ("--classes", names, "--domains", "dawn", "--template", "dawn=Early, {names}.", *second)
    assert generate(*options) == 0, reason(capsys)
    first, _ = manifest(tmp_path / "out")
    assert first["prompt"] == "Early, thing 0 thing 2 thing 10 thing 13."
    assert [one["file"] for one in first["control_images"]] == ["a.png"] and len(first["model"]["controls"]) == 2
    Image.fromarray(np.zeros((80, 96), np.uint8)).save(tmp_path / "depth" / "a.png")
    assert generate(*options) == 0
    assert "1 done, 1 already there" in capsys.readouterr().out
    Image.fromarray(np.zeros((80, 96, 3), np.uint8)).save(tmp_path / "depth" / "a.png")
    (tmp_path / "depth" / "town" / "b.png").unlink()
    assert generate(*options, out="bad") == 1
    reasons = [line["reason"] for line in manifest(tmp_path / "bad")]
    assert "has the mode RGB, but its control network takes 1 channels" in reasons[0]
    assert "has no control image town/b" in reasons[1]


def test_photos_lend_their_detail(generate, maps, tmp_path, capsys):
    (tmp_path / "photos" / "town").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "town/b_leftImg8bit.png"):
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    options = ("--photos", tmp_path / "photos", "--licence", "photos=CC-BY-4.0")
    assert generate(out="plain") == 0
    assert generate(*options) == 0, reason(capsys)
    capsys.readouterr()
    first, second = manifest(tmp_path / "out")
    assert (first["photo"]["file"], second["photo"]["file"]) == ("a.png", "b_leftImg8bit.png")
    assert first["photo"]["detail_radius"] == 6 and len(first["photo"]["hash"]) == 64
    assert "| photos whose detail is kept |  | CC-BY-4.0 |" in (tmp_path / "out" / "README.md").read_text()
    rough, plain = (np.asarray(Image.open(tmp_path / o / "images" / "a_0.png")).astype(int) for o in ("out", "plain"))
    assert np.abs(np.diff(rough, axis=0)).mean() > np.abs(np.diff(plain, axis=0)).mean()
    assert generate(*options) == 0 and "0 done, 2 already there" in capsys.readouterr().out
    Image.fromarray(np.full((80, 96, 3), 90, np.uint8)).save(tmp_path / "photos" / "a.png")
    assert generate(*options) == 0 and "1 done, 1 already there" in capsys.readouterr().out
    assert generate("--photos", tmp_path / "photos", "--detail-radius", "3") == 2 and "detail_radius" in reason(capsys)
    Image.fromarray(np.zeros((80, 90, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "town" / "b_leftImg8bit.png").unlink()
    assert generate(*options, out="bad") == 1
    reasons = [line["reason"] for line in manifest(tmp_path / "bad")]
    assert "the photo of a label map is 90 x 80 pixels, the map 96 x 80" in reasons[0]
    assert "has no photo town/b" in reasons[1]


def test_label_maps_in_other_ids(generate, maps, tmp_path):
    other = tmp_path / "other"
    (other / "town").mkdir(parents=True)
    for path in maps.rglob("*.png"):
        labels = np.asarray(Image.open(path))
        renamed = np.select([labels == c for c in (0, 2, 10, 13)], [40, 41, 42, 43], 50).astype(np.uint8)
        Image.fromarray(renamed).save(other / path.relative_to(maps))
    ids = "40=road,41=building,42=sky,43=car,50=ignore"
    assert generate() == 0
    assert generate("--ids", ids, labels=other, out="other_ids") == 0
    found, expected = ({k: v for k, v in files(tmp_path / o).items() if "/" in k} for o in ("other_ids", "out"))
    assert found == expected
    assert generate("--ids", ids.removesuffix(",50=ignore"), labels=other, out="few") == 1
    assert "holds the ids [50], which --ids does not name" in manifest(tmp_path / "few")[0]["reason"]


BAD_MAPS = {
    "colour": (np.zeros((80, 96, 3), np.uint8), "has mode RGB and shape (80, 96, 3)"),
    "small": (np.zeros((60, 96), np.uint8), "a crop of 64 x 64 does not fit"),
    "ids": (np.full((80, 96), 19, np.uint8), "holds the class ids [19], but there are 19 classes"),
    "sixteen": (
        np.full((80, 96), 700, np.uint16),
        "holds uint16 values such as 700; every pixel must be a whole class id",
    ),
    "broken": (None, "cannot be read"),
}


def test_a_bad_label_map_costs_its_line(generate, maps, tmp_path):
    for name, (pixels, _) in BAD_MAPS.items():
        if pixels is None:
            whole = (maps / "a_labelTrainIds.png").read_bytes()
            (maps / f"{name}_labelTrainIds.png").write_bytes(whole[: len(whole) // 2])
        else:
            Image.fromarray(pixels).save(maps / f"{name}_labelTrainIds.png")
    assert generate("--around", "car") == 1
    lines = {line["id"]: line for line in manifest(tmp_path / "out")}
    assert [key for key in lines if lines[key]["status"] == "done"] == ["a_0", "town/b_0"]
    for name, (_, text) in BAD_MAPS.items():
        assert text in lines[f"{name}_0"]["reason"]
    assert len(files(tmp_path / "out")) == 2 * 2 + len(BESIDE) + 4  # manifest, job, preview, card
    assert generate("--around", "train", out="none") == 1
    assert "no pixel of class 16" in manifest(tmp_path / "none")[0]["reason"]


@pytest.mark.parametrize("broken", ["first_pass", "second_pass"])
def test_a_sample_that_is_not_finite_fails_alone(generate, monkeypatch, tmp_path, broken):
    real = getattr(SceneGenerator, broken)

    def overflow(self, *arguments):
        latents = real(self, *arguments)
        latents[1] = torch.nan
        return latents

    monkeypatch.setattr(SceneGenerator, broken, overflow)
    assert generate("--rescale", "1.5", "--batch-size", "2") == 1
    good, bad = manifest(tmp_path / "out")
    assert (good["status"], bad["status"]) == ("done", "failed")
    assert "not a finite number" in bad["reason"] and not (tmp_path / "out" / "images" / "town").exists()
    image = np.asarray(Image.open(tmp_path / "out" / "images" / "a_0.png"))
    assert good["brightness"] == pytest.approx(image.mean() / 255, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--around", "castle"], "the class 'castle' is not in the vocabulary"),
        (["--domains", "night,hail"], "there is no template for the domain 'hail'"),
        (["--domains", "night,night"], "name one twice"),
        (["--template", "dawn"], "expected NAME=TEXT"),
        (["--classes", "road,sky"], "takes 20 channels, but 2 classes"),
        (["--ids", "0=castle"], "the class 'castle' is not in the vocabulary"),
        (["--ids", "0=sky,0=road"], "--ids has '0=road'"),
        (["--ids", "sky=0"], "--ids has 'sky=0'"),
        (["--resize", "1,0"], "resized by [1.0, 0.0]; expected factors above 0"),
        (["--size", "70"], "multiples of 8 pixels"),
        (["--window", "2", "--steps", "2000"], "steps is 2000"),
        (["--rare-classes"], "--rare-classes and --count N together"),
        (["--control", "x"], "one --control-images FOLDER"),
        (["--licence", "me"], "expected PART=NAME"),
        (["--detail-radius", "4"], "give --detail-radius with --photos"),
        (["--photos", "nowhere"], "nowhere is not a folder; --photos expects"),
        (["--labels", "nowhere"], "nowhere is not a folder"),
        (["--rare-classes", "--count", "1", "--statistics", "."], ". is a folder; a text file was expected"),
        (["--temperature", "0.1", "--min-pixels", "9"], "give --temperature with --rare-classes; give --min-pixels"),
        (["--statistics", "stats.json"], "give --statistics with --rare-classes"),
        (
            ["--domains", "night", "--template", "dawn=At dawn."],
            "name 'dawn' in --domains, or leave out its --template",
        ),
        (["--domains", "night", "--domain-probability", "1"], "leave out --domain-probability"),
        (["--licence", "photos=x", "--licence", "autoencoder=y"], "autoencoder= with --vae FOLDER"),
    ],
)
def test_config_faults_stop_before_anything_is_loaded(generate, monkeypatch, tmp_path, capsys, arguments, expected):
    monkeypatch.setattr("perception.backbones.load_backbone", None)
    assert generate(*arguments) == 2
    assert expected in reason(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--labels", "--photos"])
def test_an_output_folder_among_the_inputs_is_refused(generate, maps, tmp_path, capsys, option):
    (tmp_path / "photos").mkdir()
    folder = maps if option == "--labels" else tmp_path / "photos"
    for out in (folder, folder / "town" / "gen"):
        assert generate("--photos", tmp_path / "photos", "--out", out) == 2
        assert f"lies in {option} {folder}, whose files would then include" in reason(capsys)


def test_a_control_network_of_another_backbone_is_refused(generate, make_folder, tmp_path, capsys):
    assert generate("--backbone", make_folder("sdxl")) == 2
    assert "use a control network that was made for" in reason(capsys)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_dry_run(generate, tmp_path, capsys):
    assert generate("--per-label", "3", "--rescale", "1.5", "--dry-run") == 0
    printed = capsys.readouterr().out
    rows = dict(line.strip().split("  ", 1) for line in printed.splitlines())
    assert rows["items"] == "6" and "TFLOP (denoiser" in rows["per image"]
    assert 0 < int(rows["denoiser evaluations"]) <= 6 * 2 * 2 * (1 + 4)  # images, halves, steps, windows
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_why_the_label_maps_cannot_be_used(generate, maps, tmp_path, capsys):
    for path in maps.rglob("*.png"):
        Image.fromarray(np.full((96, 96), 77, np.uint8)).save(path)
    assert generate("--dry-run") == 2
    error = reason(capsys)
    assert "None of the 2 label maps looked at can be used; the first: " in error and "77" in error


def test_compiled_networks_are_recorded_and_give_the_same_images(generate, monkeypatch, tmp_path, capsys):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiled.append(module) or module)
    assert generate("--compile", "--dry-run") == 0
    assert compiled == []
    assert generate() == 0
    assert generate("--compile", out="compiled") == 0
    assert [type(module).__name__ for module in compiled] == ["UNet2DConditionModel", "ControlNetModel"]
    assert json.loads((tmp_path / "compiled" / "job.json").read_text())["options"]["compile"]
    for path in (path for line in manifest(tmp_path / "out") for path in line["output"]):
        pair = [np.asarray(Image.open(tmp_path / out / path)).astype(int) for out in ("out", "compiled")]
        assert np.abs(pair[0] - pair[1]).max() <= 2


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_stops_with_one_sentence_and_the_rerun_completes(generate, monkeypatch, tmp_path, capsys, call):
    real, calls = getattr(os, call), 0

    def full_later(*args):
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full_later)
        assert generate() == 2
    assert reason(capsys).startswith("No space left in ")
    assert not [name for name in files(tmp_path / "out") if name.endswith(".tmp")]
    assert generate() == 0 and generate(out="plain") == 0
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_verify_finds_every_kind_of_damage(generate, tmp_path, capsys):
    assert generate("--per-label", "3") == 0
    out = tmp_path / "out"
    check = ["generate", "--verify", str(out)]
    assert main(check) == 0 and "6 samples, 0 failed: all files are whole and fit" in capsys.readouterr().out
    content = (out / "images" / "a_0.png").read_bytes()
    (out / "images" / "a_0.png").write_bytes(content[:-1] + b"x")
    (out / "labels" / "a_1_labelTrainIds.png").unlink()
    (out / "images" / "stranger.png").write_bytes(content)
    (out / "preview.png").unlink()
    (out / "sample_class_stats.json").write_text("[]")
    (out / "samples.txt").write_text("a_0\na_1\n")
    assert main(check) == 1
    printed = capsys.readouterr().out
    for text in (
        "a_0: a_0.png has other bytes than were written; delete it and run the job again",
        "a_1: a_1_labelTrainIds.png cannot be read",
        "images/stranger.png is in no line",
        "preview.png is missing",
        "sample_class_stats.json does not belong",
        "samples.txt does not belong",
        "6 problems",
    ):
        assert text in printed
    assert main(["generate", "--verify", str(tmp_path)]) == 2


def test_licences_come_from_model_cards(tmp_path):
    (tmp_path / "net" / "unet").mkdir(parents=True)
    assert licence_of(tmp_path / "net" / "unet") == "unknown"
    (tmp_path / "net" / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# A network\n")
    assert licence_of(tmp_path / "net" / "unet") == licence_of(tmp_path / "net") == "cc-by-sa-4.0"
    (tmp_path / "net" / "unet" / "README.md").write_text("no card")
    assert licence_of(tmp_path / "net" / "unet") == "cc-by-sa-4.0" and licence_of("mini") == "Apache-2.0"


def test_the_presets_are_those_of_the_library():
    assert set(PRESETS) == set(ALL_PRESETS)


def test_real_label_maps_are_read(tmp_path):
    Image.fromarray(street(0)).convert("P").save(tmp_path / "p.png")
    assert np.array_equal(read_label_map(tmp_path / "p.png", CITYSCAPES), street(0))


TOOL = Path(__file__).resolve().parents[3] / "tools" / "generate_dataset.py"


def test_the_tool_runs_an_options_file(maps, control, tiny_sd, tmp_path):
    options = {"labels": maps, "control": [control], "backbone": tiny_sd, "out": tmp_path / "out", "size": "64"}
    config = tmp_path / "options.json"
    config.write_text(json.dumps({k: [*map(str, v)] if isinstance(v, list) else str(v) for k, v in options.items()}))
    command = [sys.executable, str(TOOL), str(config), "--steps", "1", "--rescale", "1", "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 done" in done.stdout and manifest(tmp_path / "out")[0]["sampler"]["steps"] == 1


def test_a_name_that_is_no_utf8_costs_one_line(generate, maps, tmp_path, capsys):
    """Its id can neither be hashed for the seed nor listed in samples.txt."""
    Image.fromarray(street(3)).save(maps / os.fsdecode(b"c\xff_labelTrainIds.png"))
    assert generate() == 1
    assert (
        r"the name 'c\udcff_0' is no UTF-8 text, which lists of samples are; rename the file" in capsys.readouterr().out
    )
    assert len((tmp_path / "out" / "samples.txt").read_text().splitlines()) == 2
    assert generate("--dry-run") == 0


def test_names_of_every_kind(generate, maps, tmp_path, capsys, shown):
    odd = ("line\nbreak", "\u2028x", "car\rriage", os.fsdecode(b"\xe9"))
    long = ("n" * 237 + "_labelTrainIds", "m" * 236 + "n_labelTrainIds")
    for stem in ("\x1b[2J_labelTrainIds", *long, *(f"{name}_labelTrainIds" for name in odd)):
        Image.fromarray(street(1)).save(maps / f"{stem}.png")
    os.mkfifo(maps / "pipe_labelTrainIds.png")
    assert generate("--domains", "night,fog") == 1
    told, out = capsys.readouterr(), tmp_path / "out"
    assert shown(told.out + told.err) and "has a line break in it or a space at its end" in told.out
    lines = manifest(out)
    done = [line for line in lines if line["status"] == "done"]
    assert next(line["reason"] for line in lines if line["id"] == "pipe_0").count("is a pipe") == 1
    assert (len(lines), len(done)) == (10, 5) and {f"{stem}.png" for stem in long} < {line["source"] for line in done}
    assert (out / "samples.txt").read_text().split("\n")[:-1] == [line["id"] for line in done]
    assert all(
        line["output"] == [f"images/{line['id']}.png", f"labels/{line['id']}_labelTrainIds.png"] for line in done
    )
    assert main(["generate", "--verify", str(out)]) == 0
    before = files(out)
    assert generate("--domains", "night,fog") == 1 and files(out) == before
