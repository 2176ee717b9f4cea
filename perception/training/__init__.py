"""Training over mmengine's Runner: config check, thin mmseg adapters, hooks and trained-head folders.

mmengine's list of optimizers is imported here, before any module of this package asks for it.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Inside, importing this module fails as one that is not installed does, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # https://docs.python.org/3/reference/import.html#the-module-cache
    try:
        yield
    finally:
        del sys.modules[name]


def _adafactor(params: Any, **options: Any) -> Any:
    """transformers' Adafactor, imported when a config asks for it."""
    from transformers.optimization import Adafactor

    return Adafactor(params, **options)


def _import_optimizers() -> None:
    """mmengine takes Adafactor from transformers, whose trainer imports peft and its models: 2 s for nobody."""
    with _without("transformers.optimization"):
        importlib.import_module("mmengine.optim")
    from mmengine.registry import OPTIMIZERS

    if "Adafactor" not in OPTIMIZERS:
        OPTIMIZERS.register_module(name="Adafactor", module=_adafactor)


_import_optimizers()
