"""Perception from frozen diffusion models: one backbone, small heads, answers."""

from __future__ import annotations

from perception.lazy import lazy_names

__version__ = "0.1.0"

__all__ = ["DiffusionBackbone", "FeatureSpec", "TensorStore", "UserError", "load_backbone", "load_model"]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DiffusionBackbone": "perception.backbones.backbone",
        "FeatureSpec": "perception.backbones.spec",
        "TensorStore": "perception.data.store",
        "UserError": "perception.errors",
        "load_backbone": "perception.backbones.loading.load",
        "load_model": "perception.encoders.artifact",
    },
)
