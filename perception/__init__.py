"""Perception from frozen diffusion models: one backbone, small heads, answers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_backbone": "perception.backbones",
    "DiffusionBackbone": "perception.backbones",
    "FeatureSpec": "perception.backbones",
    "TensorStore": "perception.data.store",
    "UserError": "perception.errors",
}
__all__ = ["DiffusionBackbone", "FeatureSpec", "TensorStore", "UserError", "load_backbone"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import perception` needs no torch (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'perception' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)
