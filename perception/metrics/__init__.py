"""Sum-able metric states: add what two processes saw, then read the figures."""

from perception.metrics.class_loss import ClassLoss
from perception.metrics.classification import ClassificationMetrics
from perception.metrics.component_recall import ComponentRecall
from perception.metrics.confusion import ConfusionMatrix
from perception.metrics.depth import DepthMetrics
from perception.metrics.matching import PairScores
from perception.metrics.referring import ReferringMetrics

__all__ = [
    "ClassLoss",
    "ClassificationMetrics",
    "ComponentRecall",
    "ConfusionMatrix",
    "DepthMetrics",
    "PairScores",
    "ReferringMetrics",
]
