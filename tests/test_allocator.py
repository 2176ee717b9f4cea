"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

from perception.allocator import keep_freed_memory

PAGES = """
import resource, torch
from perception.commands.main import main
main(["--version"])
def activations():
    return [torch.ones(2**19) for _ in range(60)]  # 2 MiB each
for _ in range(5):  # until free blocks lie as they are needed
    activations()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
activations()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(settings):
    """Pages that the system must clear for activations like those that have just been freed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    told = subprocess.run([sys.executable, "-c", PAGES], env=own | settings, capture_output=True, text=True, check=True)
    return int(told.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_command_keeps_the_memory_of_its_tensors_unless_it_is_told_how(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    assert keep_freed_memory()
    assert faults({}) < 100
    assert faults({"MALLOC_TRIM_THRESHOLD_": "131072"}) > 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000")],
)
def test_what_the_environment_says_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
