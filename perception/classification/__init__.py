"""Zero-shot classification by denoising error, and probes on frozen features."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = [
    "ClassifierTransform",
    "DiffusionClassifier",
    "Exhaustive",
    "FixedSchedule",
    "PromptSet",
    "Racing",
    "class_prompts",
    "read_prompts",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassifierTransform": "perception.classification.transforms",
        "DiffusionClassifier": "perception.classification.classifier",
        "Exhaustive": "perception.classification.stopping.schedules",
        "FixedSchedule": "perception.classification.stopping.schedules",
        "Racing": "perception.classification.stopping.racing",
        "PromptSet": "perception.classification.prompts",
        "class_prompts": "perception.classification.prompts",
        "read_prompts": "perception.classification.prompts",
    },
)
