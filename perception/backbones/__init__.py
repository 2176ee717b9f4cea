"""Frozen diffusion models as perception backbones."""

from perception.backbones.attention import AttentionSpec
from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning import Condition
from perception.backbones.loading import load_backbone
from perception.backbones.noise_path import FlowPath, NoisePath, VariancePreservingPath
from perception.backbones.prediction import Prediction
from perception.backbones.spec import FeatureSpec, Tap, sample_noise

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
