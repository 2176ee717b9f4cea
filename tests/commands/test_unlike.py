"""Pictures that are unlike anything the shipped models have seen, through the commands."""

import json
import shutil

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from perception.backbones.own_pictures import FILE
from perception.backbones.shipped import MINI
from perception.commands.main import COMMANDS, main
from perception.data.world import TEN_OBJECTS, render_object

QUICK = ("--device", "cpu", "--no-progress")
CLASSIFY = ("--classes", "ball,cup", "--method", "exhaustive", "--samples", "1", "--save-errors")
LINE = "are unlike anything that {} has seen, and its answers about them mean little"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).resize((160, 107)).save(folder / f"photo{number}.png")
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Four objects of the miniature world."""
    folder = tmp_path_factory.mktemp("objects")
    for index in range(4):
        Image.fromarray(render_object(7, index, TEN_OBJECTS[index]).image).save(folder / f"object{index}.png")
    return folder


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_mini_is(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "mini is a miniature model trained on drawn street scenes and objects: for trying things, not for " in (
        capsys.readouterr().out
    )


def test_classify_marks_photographs_and_says_so_once(photos, objects, tmp_path, capsys):
    command = ["classify", str(photos), str(objects), *CLASSIFY, *QUICK, "--out", str(tmp_path)]
    for _ in range(2):  # resumed, it says the same
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert printed.count("2 of 6 images (33 %) " + LINE.format("mini")) == 1 and "with --backbone." in printed
    marked = {record["id"].split("/")[-1]: record["unlike"] for record in manifest(tmp_path)}
    assert marked == {"photo0.png": True, "photo1.png": True} | {f"object{i}.png": False for i in range(4)}
    assert all(0 <= record["typicality"] <= 1 for record in manifest(tmp_path))


def test_it_says_nothing_of_one_photograph_or_of_the_world(photos, objects, tmp_path, capsys):
    for name, images in (("one", photos / "photo0.png"), ("world", objects)):
        assert main(["classify", str(images), *CLASSIFY, *QUICK, "--out", str(tmp_path / name)]) == 0
        assert "unlike" not in capsys.readouterr().out
    assert [record["unlike"] for record in manifest(tmp_path / "one")] == [True]


def test_answers_do_not_change_by_it(photos, tmp_path):
    silent = shutil.copytree(MINI, tmp_path / "silent", ignore=shutil.ignore_patterns(FILE))
    told = []
    for name, backbone in (("marked", "mini"), ("silent", str(silent))):
        out = tmp_path / f"out_{name}"
        assert (
            main(
                [
                    "classify",
                    str(photos),
                    *CLASSIFY,
                    *QUICK,
                    "--batch-size",
                    "1",
                    "--backbone",
                    backbone,
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
        errors = [path.read_bytes() for path in sorted((out / "errors").iterdir())]
        told.append((manifest(out), errors))
    (marked, errors), (plain, same_errors) = told
    assert errors == same_errors and all("unlike" not in record for record in plain)
    assert [{k: v for k, v in record.items() if k not in ("typicality", "unlike")} for record in marked] == plain


def test_match_says_it(photos, tmp_path, capsys):
    captions = tmp_path / "captions.txt"
    captions.write_text("a ball\na cup\n")
    command = ["match", str(photos), "--captions", str(captions), "--samples", "1", *QUICK]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "2 of 2 images (100 %) " + LINE.format("mini") in capsys.readouterr().out
    assert [record["unlike"] for record in manifest(tmp_path / "out")] == [True, True]


@pytest.mark.parametrize(
    ("command", "head"),
    [
        (("depth", "--no-colours"), "mini-depth"),
        (("segment", "--text", "the car"), "mini-referring"),
        (("segment",), "mini-semantic"),
    ],
)
def test_shipped_heads_say_it(photos, tmp_path, capsys, command, head):
    arguments = [command[0], str(photos), *command[1:], *QUICK, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 images (100 %) " + LINE.format(head) in printed and "with --model." in printed
    assert [record["unlike"] for record in manifest(tmp_path / "out")] == [True, True]
