"""Model folders that are damaged or made to hurt: loading gives a backbone that runs, or one sentence.

The default is short; PERCEPTION_FUZZ=500 tries as many folders, other ones every time.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from perception.backbones import DiffusionBackbone, load_backbone
from perception.data.documents import entries
from perception.errors import UserError

KINDS = ("sd1", "sd2_v_prediction", "sdxl", "tiny_autoencoder")
TRANSFORMERS = ("dit", "dit_pixels", "pixart_alpha", "sd3", "flux_dev")
SECONDS, BYTES = 60, 2**30  # of one load, and that its process may grow by
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 5, 7, 10**5, 10**9, 10**12, 10**400, -(10**9), 0.5, 1e30, -1e30),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "gelu", "builtins.eval", "../../../etc/passwd", "\ud800"),
    *("AutoencoderKL", "StableDiffusionPipeline", "a\nb\x1b[31m", "9" * 5000, "x" * 100_000),
    *([], [[]], [1], [10**9], [None], ["x"], [1] * 7, [[1, 2], [3]], [0] * 100_000, [1.5, float("nan")]),
    *({}, {"a": 1}, {"type": "subprocess.getoutput"}, {"0": {"0": "x"}}),
)
TEXTS = (
    *(b"", b"\x00", b"\xff\xfe", b"[]", b"5", b"null", b'"text"', b"{", b"{}", b'{"a": 1', b"[" * 100_000),
    *(b'{"a":' * 50_000, b'{"_class_name": 5, "architectures": 5}', b"9" * 5000, b'{"a": NaN}'),
)


@pytest.fixture(scope="module")
def originals(make_folder: Callable[[str], Path], make_transformer: Callable[[str], Path]) -> Callable[[str], Path]:
    """Function kind -> a whole folder, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_transformer(kind) if kind in TRANSFORMERS else make_folder(kind)
        return made[kind]

    return folder


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Callable[[Path], None]]:
    """A description, and a function that damages a copied folder, in one or two places."""
    works = draw(st.lists(st.one_of(*[json_changes()] * 4, file_changes(), header_changes()), min_size=1, max_size=2))
    kind = draw(st.sampled_from(KINDS + TRANSFORMERS))
    return kind, lambda folder: [work(folder) for work in works] and None


@st.composite
def json_changes(draw: st.DrawFn) -> Callable[[Path], None]:
    """Another value, no value, or a deeper one somewhere in a JSON file."""
    where, at = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    value = draw(st.one_of(st.sampled_from(VALUES), st.integers(), st.floats(), st.text(max_size=8)))
    how = draw(
        st.sampled_from(("replace", "replace", "replace", "replace", "replace", "delete", "nest", "add", "double"))
    )

    def change(folder: Path) -> None:
        files = [file for file in sorted(folder.rglob("*.json")) if file.name not in ("tokenizer.json", "vocab.json")]
        file = files[where % len(files)]
        try:
            document = json.loads(file.read_text())
        except (ValueError, RecursionError, OSError):  # damaged before
            return
        paths = [path for _, path, _ in entries(document) if path and "weight_map" not in path[:-1]]
        if paths:
            edit(document, paths[at % len(paths)], value, how)
            write(file, json.dumps(document).encode())

    return change


def edit(document: Any, path: tuple[str, ...], value: Any, how: str) -> None:
    """Change one entry of a document."""
    for key in path[:-1]:
        document = document[int(key) if isinstance(document, list) else key]
    key: Any = int(path[-1]) if isinstance(document, list) else path[-1]
    if how == "delete":
        del document[key]
    elif how == "add" and isinstance(document, dict):
        document[str(value)[:50]] = value
    elif how == "double":
        document[key] = [document[key], document[key]]
    elif how == "nest":
        for _ in range(40):
            document[key] = {"a": [document[key]]}
    else:
        document[key] = value


@st.composite
def file_changes(draw: st.DrawFn) -> Callable[[Path], None]:
    """A file that is cut, replaced, gone, a folder, a link to nowhere or a pipe."""
    where = draw(st.integers(0, 10**6))
    how = draw(st.sampled_from(("cut", "cut", "text", "text", "gone", "folder", "link", "fifo", "zeros", "loud")))
    share, text = draw(st.floats(0, 1)), draw(st.sampled_from(TEXTS))

    def change(folder: Path) -> None:
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".md")
        file = files[where % len(files)]
        content = file.read_bytes()
        file.unlink()
        made: dict[str, Callable[[], object]] = {
            "cut": lambda: file.write_bytes(content[: int(share * len(content))]),
            "text": lambda: file.write_bytes(text),
            "gone": lambda: None,
            "folder": file.mkdir,
            "link": lambda: file.symlink_to("/dev/zero"),
            "fifo": lambda: os.mkfifo(file),
            "zeros": lambda: file.write_bytes(bytes(len(content))),
            "loud": lambda: file.write_bytes(content[: int(share * len(content))] + b"\xff" * 20 + content[-20:]),
        }
        made[how]()

    return change


@st.composite
def header_changes(draw: st.DrawFn) -> Callable[[Path], None]:
    """A safetensors file with another header, or another length of it."""
    where, at = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    part = draw(st.sampled_from(("dtype", "shape", "data_offsets", "all", "length")))
    value = draw(st.one_of(st.sampled_from(VALUES), st.sampled_from(("F64", "F16", "BOOL", [0, 10**15], [4, 2]))))

    def change(folder: Path) -> None:
        files = sorted(folder.rglob("*.safetensors"))
        file = files[where % len(files)] if files else None
        if file is None or not file.is_file() or file.stat().st_size < 16:
            return
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        try:
            header = json.loads(content[8 : 8 + length])
            key = sorted(header)[at % len(header)]
        except (ValueError, TypeError, ZeroDivisionError):  # damaged before
            return
        if part == "length":
            write(file, struct.pack("<Q", at**3) + content[8:])
            return
        if part == "all" or not isinstance(header[key], dict):
            header[key] = value
        else:
            header[key][part] = value
        text = json.dumps(header).encode()
        write(file, struct.pack("<Q", len(text)) + text + content[8 + length :])

    return change


def write(file: Path, content: bytes) -> None:
    """A new file in place of a hard link."""
    file.unlink()
    file.write_bytes(content)


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes too long, or too much memory."""

    def late(*_: object) -> None:
        raise AssertionError(f"no answer in {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    assert grown < BYTES // 1024, f"the process grew by {grown} KiB"


def try_folder(folder: Path) -> str | None:
    """Load and run the model once; the sentence where that is refused."""
    try:
        with bounded():
            run(load_backbone(folder, device="cpu"))
    except UserError as error:
        return str(error)
    return None


def run(backbone: DiffusionBackbone) -> None:
    """One call of each part."""
    latents = backbone.encode(IMAGE)
    names = backbone.conditioner.class_names
    condition = backbone.condition(["a photo" if names is None else names[0]])
    prediction = backbone.denoise(backbone.noise(latents, 0, torch.zeros_like(latents)), 0, condition)
    assert prediction.eps.shape == latents.shape


@settings(
    max_examples=int(os.environ.get("PERCEPTION_FUZZ", 25)),
    derandomize="PERCEPTION_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(case=damages())
def test_a_damaged_folder_gives_a_backbone_or_a_sentence(
    originals: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, case: tuple[str, Callable[[Path], None]]
) -> None:
    kind, damage = case
    around = tmp_path_factory.mktemp("hostile")
    folder = around / "model"
    shutil.copytree(originals(kind), folder, copy_function=os.link)
    try:
        damage(folder)
        files = sorted(around.rglob("*"))
        sentence = try_folder(folder)
        assert sorted(around.rglob("*")) == files, "loading wrote files"
        if sentence is not None:
            assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 5000, sentence
            assert str(folder) in sentence or "latents" in sentence or "images" in sentence, sentence
    finally:
        shutil.rmtree(around)
