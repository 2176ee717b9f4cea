"""Sum-able metric states: add what two processes saw, then read the figures."""

from __future__ import annotations

from perception.lazy import lazy_names

__all__ = [
    "ClassLoss",
    "ClassificationMetrics",
    "ComponentRecall",
    "ConfusionMatrix",
    "DepthMetrics",
    "PairScores",
    "ReferringMetrics",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClassLoss": "perception.metrics.class_loss",
        "ClassificationMetrics": "perception.metrics.classification",
        "ComponentRecall": "perception.metrics.component_recall",
        "ConfusionMatrix": "perception.metrics.confusion",
        "DepthMetrics": "perception.metrics.depth",
        "PairScores": "perception.metrics.matching",
        "ReferringMetrics": "perception.metrics.referring",
    },
)
