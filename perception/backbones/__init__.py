"""Frozen diffusion models as perception backbones."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = [
    "AttentionSpec",
    "Condition",
    "DiffusionBackbone",
    "FeatureSpec",
    "FlowPath",
    "NoisePath",
    "Prediction",
    "Tap",
    "VariancePreservingPath",
    "load_backbone",
    "sample_noise",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AttentionSpec": "perception.backbones.attention",
        "Condition": "perception.backbones.conditioning.condition",
        "DiffusionBackbone": "perception.backbones.backbone",
        "FeatureSpec": "perception.backbones.spec",
        "FlowPath": "perception.backbones.noise_path",
        "NoisePath": "perception.backbones.noise_path",
        "Prediction": "perception.backbones.prediction",
        "Tap": "perception.backbones.spec",
        "VariancePreservingPath": "perception.backbones.noise_path",
        "load_backbone": "perception.backbones.loading.load",
        "sample_noise": "perception.backbones.spec",
    },
)
