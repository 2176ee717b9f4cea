"""Zero-shot classification by denoising error, and probes on frozen features."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = [
    "ClassifierTransform",
    "ConfidenceSequence",
    "DiffusionClassifier",
    "Exhaustive",
    "FixedSchedule",
    "PairedT",
    "PromptSet",
    "SuccessiveHalving",
    "class_prompts",
    "read_prompts",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassifierTransform": "perception.classification.transforms",
        "ConfidenceSequence": "perception.classification.racing",
        "DiffusionClassifier": "perception.classification.classifier",
        "Exhaustive": "perception.classification.schedule",
        "FixedSchedule": "perception.classification.schedule",
        "PairedT": "perception.classification.racing",
        "PromptSet": "perception.classification.prompts",
        "SuccessiveHalving": "perception.classification.racing",
        "class_prompts": "perception.classification.prompts",
        "read_prompts": "perception.classification.prompts",
    },
)
