"""Noise: a function of (seed, image, timestep, trial), or rows of a file."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from damage import damaged
from safetensors.torch import save_file

from perception.classification.noise import SeededNoise, SharedNoise, read_noise
from perception.classification.stopping.schedules import TimestepNoise
from perception.errors import UserError

SHAPE = (4, 8, 8)


def test_seeded_noise_depends_on_seed_image_timestep_and_trial_only():
    base = SeededNoise(1)("a", TimestepNoise(10, 0, 5), SHAPE)
    assert torch.equal(base, SeededNoise(1)("a", TimestepNoise(10, 0, 99), SHAPE))
    others = [
        SeededNoise(2)("a", TimestepNoise(10), SHAPE),
        SeededNoise(1)("b", TimestepNoise(10), SHAPE),
        SeededNoise(1)("a", TimestepNoise(11), SHAPE),
        SeededNoise(1)("a", TimestepNoise(10, 1), SHAPE),
    ]
    assert not any(torch.equal(base, other) for other in others)


def test_noise_files_of_every_kind_are_read_by_index(tmp_path):
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "n.npy", noise.numpy())
    torch.save(noise, tmp_path / "n.pt")
    save_file({"noise": noise}, tmp_path / "n.safetensors")
    for name in ("n.npy", "n.pt", "n.safetensors"):
        source = read_noise(tmp_path / name)
        assert torch.equal(source("any", TimestepNoise(500, 0, 2), SHAPE), noise[2])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("n.txt", b"", "must end with .npy, .pt, .safetensors"),
        ("n.npy", b"abc", "cannot read the noise file"),
        ("n.pt", b"abc", "cannot read the noise file"),
        ("n.safetensors", b"abc", "cannot read the noise file"),
    ],
)
def test_unreadable_noise_files(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_noise(tmp_path / name)


def test_noise_that_does_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"n\.npy does not exist"):
        read_noise(tmp_path / "n.npy")
    torch.save({"noise": torch.zeros(1)}, tmp_path / "dict.pt")
    with pytest.raises(UserError, match="holds a dict; save one bare tensor"):
        read_noise(tmp_path / "dict.pt")
    with pytest.raises(UserError, match=r"has shape \(3, 8\)"):
        SharedNoise(torch.zeros(3, 8))
    with pytest.raises(UserError, match=r"need \(5 or more, 4, 8, 8\)"):
        SharedNoise(torch.zeros(4, *SHAPE)).check(5, SHAPE)


def test_a_damaged_noise_file_is_one_sentence(tmp_path):
    draw, noise = random.Random(0), torch.zeros(1, 4, 8, 8)
    np.save(tmp_path / "n.npy", noise.numpy())
    torch.save(noise, tmp_path / "n.pt", _use_new_zipfile_serialization=False)
    save_file({"noise": noise}, tmp_path / "n.safetensors")
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            path.write_bytes(damaged(whole, draw, 300))
            with suppress(UserError):
                read_noise(path)
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    (tmp_path / "n.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + huge.encode().ljust(117) + b"\n")
    with pytest.raises(UserError, match=r"cannot read the noise file .*n\.npy \(mmap length is greater than file size"):
        read_noise(tmp_path / "n.npy")


def test_files_that_promise_more_than_they_hold(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000, 8, 8), }"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    torch.save(torch.zeros(1, 1, 1, 1).expand(10**9, 4, 8, 8), tmp_path / "a.pt")
    for name, sentence in (("a.npy", "cannot read the noise file"), ("a.pt", "repeats its numbers to the shape")):
        with pytest.raises(UserError, match=sentence):
            read_noise(tmp_path / name)
