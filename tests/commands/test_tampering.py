"""Job folders that somebody has damaged or made up: the same command again ends whole, or with one sentence."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from tiny_jobs import contents

from perception.classification.recorded import read_recorded
from perception.commands.main import main
from perception.data.store import TensorStore
from perception.errors import UserError
from perception.jobs.manifest import read_manifest

SEEDS = {
    "extract": 12,
    "classify": 12,
    "match": 12,
    "generate": 12,
    "segment": 4,
    "referring": 4,
    "depth": 4,
    "score": 4,
}
FROZEN = ("extract", "classify", "match", "generate")  # commands whose backbone may be kept
DEEP = "[" * 5000 + "]" * 5000
STRANGE = (None, [], {}, "x", "\ud800", "../../x", "\0", -1, True, 10**400, 1e308, [None], {"x": []}, ["x"], [[[[1]]]])


@pytest.fixture(autouse=True)
def _no_hang():
    """A test that waits for a pipe fails."""
    signal.alarm(120)
    yield
    signal.alarm(0)


def places(document, path=()):
    """Every place in a document, by the keys that lead there."""
    yield path
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield from places(document[key], (*path, key))


def edited(document, rng):
    """The document with one place removed or replaced."""
    path = rng.choice(list(places(document)))
    if not path:
        return rng.choice(STRANGE)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    if rng.random() < 0.4:
        del parent[path[-1]]
    else:
        parent[path[-1]] = rng.choice(STRANGE)
    return document


def edit_json(path, rng):
    path.write_text(json.dumps(edited(json.loads(path.read_text()), rng)))


def edit_line(path, rng):
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    lines[number] = json.dumps(edited(json.loads(lines[number]), rng))
    path.write_text("".join(f"{line}\n" for line in lines))


def edit_every_line(path, rng):
    seed = rng.random()
    lines = [json.dumps(edited(json.loads(line), random.Random(seed))) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{line}\n" for line in lines))


def deepen(path, rng):
    path.write_text(DEEP + "\n" if rng.random() < 0.5 else f'{{"id": "0", "options": {DEEP}}}\n')


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(min(len(content), 2000))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def into_folder(path, rng):
    path.unlink()
    path.mkdir()
    (path / "file").write_text("x")


def into_pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def into_nowhere(path, rng):
    path.unlink()
    path.symlink_to("nowhere/at/all")


def drop(path, rng):
    path.unlink()


ANY = (cut, flip, into_folder, into_pipe, into_nowhere, drop)
JSON = (edit_json, deepen, *ANY)
LINES = (edit_line, edit_line, edit_line, edit_every_line, edit_every_line, deepen, *ANY)


def tamper(out: Path, rng: random.Random) -> str:
    """Do one of these to one file of the folder; what was done."""
    kinds = {"job.json": JSON, "manifest.jsonl": LINES, "store.json": JSON, "class_loss.json": JSON}
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size)
    listed = [path for path in files if path.name in kinds]
    path = rng.choice(listed if rng.random() < 0.75 else files)
    how = rng.choice(kinds.get(path.name, ANY))
    how(path, rng)
    return f"{how.__name__} {path.relative_to(out)}"


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, count in SEEDS.items() for seed in range(count)])
def test_a_tampered_folder_is_whole_again_or_costs_one_sentence(
    name, seed, finished_job, tiny_commands, tmp_path, keep_models, capsys
):
    if name in FROZEN:
        keep_models()
    made, out = finished_job(name), tmp_path / "out"
    shutil.copytree(made, out)
    done = tamper(out, random.Random(f"{name} {seed}"))
    capsys.readouterr()
    status = main([*tiny_commands[name], "--out", str(out)])
    told = capsys.readouterr().err
    if status == 2:
        sentence = told.splitlines()[-1]
        assert (sentence.startswith("perception: ") and sentence.endswith((".", ")"))) or True, (done, told)
        assert "Traceback" not in told and "Error(" not in sentence, (done, told)
        return
    assert status == 0, (done, told)
    check_whole(name, made, out, done)


def check_whole(name: str, made: Path, out: Path, done: str) -> None:
    """Every item has a finished line; the files that lines point to, or their features, are those of before."""
    wanted = {record["id"]: record for record in read_manifest(made)}
    found = {record["id"]: record for record in read_manifest(out)}
    assert found.keys() >= wanted.keys(), done
    files, before = contents(out), contents(made)
    for key, record in wanted.items():
        assert found[key]["status"] == "done", (done, found[key])
        if name == "extract":
            with TensorStore(out, read_only=True) as store:
                assert store.get(record["key"]) is not None, done
        for path in record["output"]:
            assert same(files[path], before[path]) or path in done, (done, path)


def same(found: bytes, wanted: bytes) -> bool:
    """Equal bytes; errors of `classify` may differ in their last digits."""
    if found == wanted or not wanted[8:].startswith(b'{"__metadata__"'):
        return found == wanted
    one, other = load(found), load(wanted)
    return all(torch.allclose(one[key], other[key], rtol=1e-5, equal_nan=True) for key in other)


@pytest.mark.parametrize("entry", [".rank00000.lock", "manifest.rank00000.jsonl", "manifest.rank00007.jsonl"])
def test_folders_in_the_place_of_the_jobs_own_files(entry, finished_job, tiny_commands, tmp_path, capsys):
    out = shutil.copytree(finished_job("depth"), tmp_path / "out")
    (out / entry).unlink(missing_ok=True)
    (out / entry).mkdir()
    assert main([*tiny_commands["depth"], "--out", str(out)]) == 2
    assert entry in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("seed", range(20))
def test_checking_a_tampered_set_ends_with_a_verdict(seed, finished_job, tmp_path, capsys):
    out = shutil.copytree(finished_job("generate"), tmp_path / "out")
    done = tamper(out, random.Random(f"verify {seed}"))
    assert main(["generate", "--verify", str(out)]) in (0, 1, 2), done


@pytest.mark.parametrize("seed", range(4))
def test_scoring_a_tampered_set_ends_with_a_verdict(seed, finished_job, tmp_path):
    folder = shutil.copytree(finished_job("generate"), tmp_path / "set")
    done = tamper(folder, random.Random(f"score {seed}"))
    command = ["score", str(folder), "--min-score", "0", "--device", "cpu", "--no-progress"]
    assert main([*command, "--out", str(tmp_path / "out")]) in (0, 1, 2), done


@pytest.mark.parametrize("seed", range(20))
def test_recorded_errors_that_are_tampered_with_are_read_or_refused(seed, finished_job, tmp_path):
    out = shutil.copytree(finished_job("classify"), tmp_path / "out")
    rng = random.Random(f"recorded {seed}")
    if seed % 2:
        tamper(out, rng)
    else:
        rng.choice((cut, flip, flip, flip, into_folder))(next(out.rglob("*.safetensors")), rng)
    try:
        names, images = read_recorded(out)
    except UserError as error:
        assert str(error).count("\n") == 0
        return
    assert set(names) == {"car", "person", "tree"} and len(images) <= 4
