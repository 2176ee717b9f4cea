"""Zero-shot classification by denoising error, and probes on frozen features."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ClassifierTransform": "transforms",
    "ConfidenceSequence": "racing",
    "DiffusionClassifier": "classifier",
    "Exhaustive": "schedule",
    "FixedSchedule": "schedule",
    "PairedT": "racing",
    "PromptSet": "prompts",
    "SuccessiveHalving": "racing",
    "class_prompts": "prompts",
    "read_prompts": "prompts",
}
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that bad prompts are refused before torch is loaded (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'perception.classification' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(f"perception.classification.{_PUBLIC[name]}"), name)
