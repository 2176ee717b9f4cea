"""`perception extract` on the tiny Stable Diffusion."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from perception.backbones import FeatureSpec
from perception.commands.main import main
from perception.data.images import image_tensor, read_image
from perception.data.store import TensorStore


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (70 + number, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("sub" if number % 2 else "") / f"{number}.png")
    return root


@pytest.fixture
def extract(folder, tiny_sd, tmp_path):
    """Run the command on the folder; later arguments win."""

    def run(*arguments, out="out"):
        command = ["extract", str(folder), "--backbone", str(tiny_sd), "--device", "cpu", "--no-progress"]
        command += ["--taps", "up_blocks.1,mid_block", "--timesteps", "50,200", "--size", "64"]
        return main([*command, "--out", str(tmp_path / out), *arguments])

    return run


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_every_image_has_a_line_whose_key_is_in_the_store(extract, folder, tmp_path, tiny_backbone):
    assert extract("--store-dtype", "float32", "--noise", "none") == 0
    lines = manifest(tmp_path / "out")
    assert [line["id"] for line in lines] == ["0.png", "2.png", "4.png", "sub/1.png", "sub/3.png"]
    spec = FeatureSpec(("up_blocks.1", "mid_block"), (50, 200), noise="none")
    with TensorStore(tmp_path / "out", read_only=True) as store:
        for line in lines:
            stored = store.get(line["key"])
            assert {tap: list(value.shape) for tap, value in stored.items()} == line["shapes"]
            assert list(store.get(line["latent_key"])["latent"].shape) == [4, 8, 8]
            pixels = image_tensor(read_image(folder / line["id"]), 64)
            with torch.no_grad():
                expected = tiny_backbone.features(pixels[None], spec)
            for tap, value in expected.items():
                assert (stored[tap] - value[0]).norm() <= 1e-5 * value.norm()


def test_draws_are_averaged_and_are_another_job(extract, folder, tmp_path, tiny_backbone, capsys):
    assert extract("--store-dtype", "float32", "--draws", "3") == 0
    spec = FeatureSpec(("up_blocks.1", "mid_block"), (50, 200), draws=3)
    with TensorStore(tmp_path / "out", read_only=True) as store:
        for line in manifest(tmp_path / "out"):
            with torch.no_grad():
                expected = tiny_backbone.features(image_tensor(read_image(folder / line["id"]), 64)[None], spec)
            for tap, value in expected.items():
                assert (store.get(line["key"])[tap] - value[0]).norm() <= 1e-5 * value.norm()
    assert extract("--store-dtype", "float32") == 2
    assert "holds results made with draws = 3 (now None)" in capsys.readouterr().err
    assert extract("--draws", "2", "--noise", "none", out="none") == 2
    assert "every draw would be the same" in capsys.readouterr().err


def test_the_same_command_again_computes_nothing_and_replaces_what_gc_took(extract, tmp_path, capsys):
    assert extract() == 0
    before = manifest(tmp_path / "out")
    assert extract() == 0
    assert "0 done, 5 already there, 0 failed" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "shards")
    assert extract() == 0
    assert "5 done, 0 already there" in capsys.readouterr().out and manifest(tmp_path / "out") == before


def test_batch_size_order_and_workers_change_no_line_and_no_feature(extract, tmp_path):
    extract("--store-dtype", "float32", "--noise", "per_image", "--batch-size", "1", out="one")
    extract("--store-dtype", "float32", "--noise", "per_image", "--batch-size", "4", "--workers", "5", out="four")
    lines = manifest(tmp_path / "one")
    assert lines == manifest(tmp_path / "four")
    one, four = TensorStore(tmp_path / "one", read_only=True), TensorStore(tmp_path / "four", read_only=True)
    for line in lines:
        for tap, value in one.get(line["key"]).items():
            assert (four.get(line["key"])[tap] - value).norm() <= 1e-5 * value.norm()


def test_bad_files_cost_a_line_each(extract, folder, tmp_path, capsys):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"no image")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("CMYK", (40, 40)).save(folder / "good.jpg")
    assert extract() == 1
    reasons = {line["id"]: line["reason"] for line in manifest(tmp_path / "out") if line["status"] == "failed"}
    assert set(reasons) == {"empty.png", "text.jpg", "pixel.png"}
    assert "is empty (0 bytes)" in reasons["empty.png"] and "1 x 1 pixels" in reasons["pixel.png"]
    assert "6 done, 0 already there, 3 failed" in capsys.readouterr().out


def test_a_shared_store_is_not_computed_twice(extract, tmp_path):
    shared = str(tmp_path / "shared")
    assert extract("--store", shared, out="a") == 0
    shards = sorted(os.listdir(tmp_path / "shared" / "shards"))
    assert extract("--store", shared, out="b") == 0
    assert sorted(os.listdir(tmp_path / "shared" / "shards")) == shards
    assert manifest(tmp_path / "a") == manifest(tmp_path / "b")


def test_other_taps_need_another_out(extract, capsys):
    assert extract() == 0
    assert extract("--taps", "mid_block") == 2
    assert "taps = ['up_blocks.1', 'mid_block'] (now ['mid_block']); choose another --out" in capsys.readouterr().err


def test_list_taps_prints_channels_and_strides(tiny_sd, capsys):
    assert main(["extract", "--backbone", str(tiny_sd), "--list-taps", "--device", "cpu"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["tap", "kind", "channels", "stride"]
    assert ["latent", "latent", "4", "8"] in rows and ["mid_block", "block", "64", "64"] in rows


def test_dry_run_prints_the_plan_and_writes_nothing(extract, tmp_path, capsys):
    assert extract("--dry-run", "--batch-size", "2") == 0
    printed = capsys.readouterr().out
    for row in ("items  5", "denoiser evaluations  10", "FLOP", "disk", "time  about"):
        assert row in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--taps", "up_block.1"], "unknown tap 'up_block.1'; the nearest taps"),
        (["--taps", ""], "No taps were given; add --taps NAME,..."),
        (["--timesteps", "50,1000"], "1000"),
        (["--timesteps", "50,50"], "stands there twice"),
        (["--size", "60"], "size 60x60 does not fit"),
        (["--backbone", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_manifest(extract, tmp_path, capsys, arguments, sentence):
    assert extract(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("perception: ") and printed.count("\n") == 1 and sentence in printed
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


@pytest.mark.parametrize("option", [["--timesteps", "x"], ["--size", "0"], ["--batch-size", "0"], ["--noise", "loud"]])
def test_values_that_argparse_refuses(extract, option):
    with pytest.raises(SystemExit) as stop:
        extract(*option)
    assert stop.value.code == 2


def test_missing_inputs_and_outputs_are_named(tiny_sd, folder, tmp_path, capsys):
    assert main(["extract", str(tmp_path / "none"), "--taps", "mid_block", "--out", str(tmp_path / "o")]) == 2
    assert "none does not exist" in capsys.readouterr().err
    assert main(["extract", str(folder), "--taps", "mid_block"]) == 2
    assert "No output folder was given; add --out FOLDER." in capsys.readouterr().err
