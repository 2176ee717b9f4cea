"""Files that no job expects: other formats, pipes and devices, odd names. Each costs its manifest line alone."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception
from perception.commands.main import main
from perception.data.images import read_image
from perception.jobs import prepare

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


def picture(path, seed=0, size=(64, 64), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    return picture(tmp_path / "photos" / "good.png").parent


@pytest.fixture
def extract(photos, tiny_sd, tmp_path):
    """Run `extract` on the photos or other inputs; returns its status and manifest."""

    def run(*inputs, out=tmp_path / "out"):
        command = ["extract", *map(str, inputs or [photos]), "--backbone", tiny_sd, "--device", "cpu", "--no-progress"]
        command += ["--taps", "mid_block", "--size", "64", "--out", out]
        status = main(list(map(str, command)))
        lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
        return status, {line["id"]: line for line in lines}

    return run


@pytest.fixture
def patience():
    """A blocked test fails after a while instead of waiting for ever; pipes named to it are let go."""
    pipes = []
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("the job hangs"))
    signal.alarm(120)
    yield pipes
    signal.alarm(0)
    for path in pipes:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody waits for it
            continue


def only_good_is_done(lines):
    return {key for key, line in lines.items() if line["status"] == "done"} == {"good.png"}


def test_no_picture_starts_a_program(extract, photos, tmp_path, monkeypatch):
    trace = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("a.jpg", "z.tif"):
        (photos / name).write_bytes(EPS)
    status, lines = extract()
    assert status == 1 and only_good_is_done(lines) and not trace.exists()
    assert "is not an image that Pillow can read as AVIF, BMP, GIF, JPEG, PNG" in lines["a.jpg"]["reason"]


def test_every_opened_picture_has_a_list_of_formats():
    for path in Path(perception.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "Image.open(" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                assert "formats" in [keyword.arg for keyword in node.keywords], f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.avif", {}),
        ("a.bmp", {}),
        ("a.gif", {}),
        ("a.jpg", {}),
        ("a.jpg", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (64, 64))]}),  # of phones
        ("a.pgm", {}),
        ("a.png", {}),
        ("a.ppm", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {}),
    ],
)
def test_the_pictures_that_people_have_are_read(tmp_path, name, options):
    image = Image.open(picture(tmp_path / "source.png"))
    image = image.convert("L") if name.endswith(".pgm") else image
    image.save(tmp_path / name, **options)
    assert read_image(tmp_path / name).size == (64, 64)


def test_what_is_no_regular_file_costs_its_line(extract, photos, tmp_path, patience):
    os.mkfifo(photos / "pipe.png")
    patience.append(photos / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(photos / "socket.png"))
    (photos / "endless.png").symlink_to("/dev/zero")
    (photos / "folder.png").mkdir()
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "self.png").symlink_to(photos / "self.png")
    (photos / "kernel.png").symlink_to("/proc/self/status")
    with open(photos / "huge.png", "wb") as file:
        file.truncate(3 << 40)
    status, lines = extract()
    reasons = {key: line["reason"] for key, line in lines.items() if line["status"] == "failed"}
    assert status == 1 and only_good_is_done(lines)
    assert "pipe.png is a pipe; a file was expected: copy what it holds into a regular file" in reasons["pipe.png"]
    assert "is a socket" in reasons["socket.png"] and "is a device" in reasons["endless.png"]
    assert "is a folder" in reasons["folder.png"] and "is empty (0 bytes)" in reasons["kernel.png"]
    assert "has 3298.5 GB; at most 2.1 GB are read" in reasons["huge.png"]
    assert "gone.png cannot be read" in reasons["gone.png"] and "self.png cannot be read" in reasons["self.png"]
    again = extract(photos / "pipe.png", photos / "good.png", out=tmp_path / "named")
    assert again[0] == 1 and only_good_is_done(again[1])


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "PHOTOS", "--prompts", "PIPE"],
        ["classify", "PHOTOS", "--classes", "a,b", "--template", "PIPE"],
        ["classify", "PHOTOS", "--classes", "a,b", "--noise", "PIPE.npy"],
        ["classify", "--dataset", "folder", "--root", "PHOTOS", "--subset", "PIPE"],
        ["match", "PHOTOS", "--captions", "PIPE"],
        ["match", "--examples", "PIPE.csv"],
        ["generate", "--labels", "PHOTOS", "--control", "mini-control", "--classes", "PIPE"],
        ["generate", "--labels", "PHOTOS", "--control", "mini-control", "--per-label", "PIPE"],
        ["score", "PHOTOS", "--class-loss", "PIPE"],
        ["convert", "dit", "PIPE"],
    ],
)
def test_lists_and_tables_are_regular_files(arguments, photos, tmp_path, patience, capsys, tiny_sd):
    for name in ("PIPE", "PIPE.npy", "PIPE.csv"):
        os.mkfifo(tmp_path / name)
        patience.append(tmp_path / name)
    (photos / "a").mkdir()
    (photos / "labels").mkdir()
    (photos / "images").mkdir()
    for folder in ("a", "images", "labels"):
        Image.new("L", (64, 64)).save(photos / folder / "x.png")
    names = {"PHOTOS": photos, **{name: tmp_path / name for name in ("PIPE", "PIPE.npy", "PIPE.csv")}}
    command = [str(names.get(word, word)) for word in arguments]
    command += [tmp_path / "out"] if command[0] == "convert" else ["--out", tmp_path / "out"]
    command += ["--backbone", tiny_sd] if command[0] == "classify" else []
    assert main(list(map(str, command))) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "PIPE" in told


def test_a_job_says_which_file_it_waits_for(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "WAIT_SECONDS", 0.05)
    items = [perception.jobs.Item(name, photos / name) for name in ("slow\x1b.png", "good.png")]

    def load(item):
        if item.id != "good.png":
            signal.sigtimedwait([], 0.2)
        return prepare.PreparedItem(item, None)

    assert [entry.item for entry in prepare.prefetch(items, load, 1, 4)] == items
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"still waiting for {photos}/slow\\x1b.png after 0.05 s")


EVERY_COMMAND = {
    "extract": ["PHOTOS", "--taps", "mid_block"],
    "classify": ["PHOTOS", "--classes", "a,b"],
    "adapt": ["PHOTOS"],
    "match": ["PHOTOS", "--captions", "c.txt"],
    "segment": ["PHOTOS"],
    "depth": ["PHOTOS"],
    "generate": ["--labels", "PHOTOS", "--control", "mini-control"],
    "score": ["PHOTOS", "--no-filter"],
    "sweep": ["PHOTOS"],
    "world": ["sheet"],
}


@pytest.mark.parametrize("name", ["", "a\0b"], ids=["empty", "NUL"])
@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_an_impossible_out_is_refused_by_every_command(command, name, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(photos) if word == "PHOTOS" else word for word in EVERY_COMMAND[command]]
    with pytest.raises(SystemExit) as stop:
        main([command, *arguments, "--out", name])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"perception {command}: error: argument --out: ")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("arguments", [["segment", ""], ["store", "", "stat"], ["convert", "dit", "x.pt", ""]])
def test_an_empty_name_is_not_this_folder(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "the name is empty; give the name of a file or folder" in capsys.readouterr().err


LONG = "x" * 5000
CONTROLLED = ["--labels", "PHOTOS", "--control", "mini-control"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", LONG, "--taps", "mid_block", "--out", "OUT"],
        ["extract", "PHOTOS", "--backbone", "TINY", "--taps", "mid_block", "--size", "64", "--out", f"OUT/{LONG}"],
        ["extract", "PHOTOS", "--backbone", f"./{LONG}", "--taps", "mid_block", "--out", "OUT"],
        [
            "extract",
            "PHOTOS",
            "--backbone",
            "TINY",
            "--taps",
            "mid_block",
            "--size",
            "64",
            "--store",
            LONG,
            "--out",
            "OUT",
        ],
        ["classify", "PHOTOS", "--prompts", LONG, "--out", "OUT"],
        ["match", "PHOTOS", "--captions", LONG, "--out", "OUT"],
        ["segment", "PHOTOS", "--model", LONG, "--out", "OUT"],
        ["generate", "--labels", LONG, "--control", "mini-control", "--out", "OUT"],
        ["generate", *CONTROLLED, "--statistics", LONG, "--rare-classes", "--count", "1", "--out", "OUT"],
        ["generate", "--verify", LONG],
        ["score", LONG, "--no-filter", "--out", "OUT"],
        ["score", "PHOTOS", "--class-loss", LONG, "--out", "OUT"],
        ["sweep", LONG, "--out", "OUT"],
        ["store", LONG, "stat"],
        ["convert", "dit", LONG, "OUT"],
        ["world", "objects", "--count", "1", "--out", LONG],
        ["adapt", "PHOTOS", "--out", LONG],
    ],
    ids=lambda words: " ".join(word[:12] for word in words[:8]),
)
def test_an_overlong_path_is_one_sentence(arguments, photos, tmp_path, tiny_sd, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "images", "labels"):
        picture(photos / name / "x.png")
    places = {"PHOTOS": str(photos), "TINY": str(tiny_sd)}
    assert main([places.get(word, word) for word in arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("perception: ")


def test_what_is_printed_of_names_moves_no_cursor(photos, capsys):
    with pytest.raises(SystemExit):
        main(["segment", str(photos), "--out", "x", "--\x1b]0;title\x07\u202e"])
    assert main(["segment", str(photos / "\x1b[2J\nperception: all is well")]) == 2
    told = capsys.readouterr().err
    assert all(character.isprintable() or character == "\n" for character in told)
    assert "\\x1b[2J\\nperception: all is well does not exist" in told


def test_a_limit_of_files_is_one_sentence_and_leaves_nothing(tmp_path):
    """In a process of its own: the limit holds for everything that one writes."""
    command = [
        sys.executable,
        "-m",
        "perception",
        "world",
        "objects",
        "--count",
        "1",
        "--out",
        str(tmp_path / "objects"),
    ]
    limited = ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *command]  # KiB
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "would be larger than files may be here" in done.stderr
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", [["match", "--captions"], ["match", "--examples"], ["classify", "--prompts"]])
def test_a_huge_cell_of_a_table_is_one_sentence(command, photos, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("image,caption,prompt,classname,classidx\ngood.png," + "a" * 200_000 + ",p,c,1\n")
    inputs = [] if "--examples" in command else [str(photos)]
    assert main([command[0], *inputs, command[1], str(table), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "t.csv is no CSV (field larger than field limit (131072))" in told


def test_texts_in_another_encoding_are_one_sentence(photos, tmp_path, tiny_sd, capsys):
    (photos.parent / "sorted").mkdir()
    for name in (os.fsdecode(b"caf\xe9"), "dog"):
        picture(photos.parent / "sorted" / name / "a.png")
    command = ["classify", photos.parent / "sorted", "--backbone", tiny_sd, "--device", "cpu", "--no-progress"]
    assert main([*map(str, command), "--size", "64", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert r"the prompt 'a photo of a caf\udce9.' is no Unicode text; write it, or its folder, in UTF-8" in told
