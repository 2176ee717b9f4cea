"""Dense prediction from diffusion backbones: pure torch networks and their predictors."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = ["ReferringNet", "ReferringPredictor", "SemanticPredictor"]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ReferringNet": "perception.segmentation.referring",
        "ReferringPredictor": "perception.segmentation.predictor",
        "SemanticPredictor": "perception.segmentation.predictor",
    },
)
