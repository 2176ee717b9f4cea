"""Memory of CPU tensors that is freed stays with the process."""

from __future__ import annotations

import ctypes
import os
import platform

_KEPT = 512 * 2**20  # bytes of freed memory at the end of the heap
_MAPPED = 32 * 2**20  # bytes of a block that is mapped, and returned, by itself: the upper end of what glibc chooses
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Let this process keep up to 512 MiB of what it frees, for its next tensors. Whether that was arranged.

    By default glibc often returns the activations of a denoiser at once, and the system clears the same pages anew for
    the next ones. For programs: every command and tool calls it first. Nothing changes where the C library is no glibc,
    or where the environment says what its malloc should do (see mallopt(3)).
    """
    told = any(name in os.environ for name in _SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if told or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
