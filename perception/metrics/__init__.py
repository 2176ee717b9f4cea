"""Sum-able metric states: add what two processes saw, then read the figures."""

from perception.metrics.classification import ClassificationMetrics
from perception.metrics.confusion import ConfusionMatrix
from perception.metrics.depth import DepthMetrics
from perception.metrics.matching import PairScores
from perception.metrics.referring import ReferringMetrics

__all__ = ["ClassificationMetrics", "ConfusionMatrix", "DepthMetrics", "PairScores", "ReferringMetrics"]
