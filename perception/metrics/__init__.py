"""Sum-able metric states: add what two processes saw, then read the figures."""

from perception.metrics.confusion import ConfusionMatrix
from perception.metrics.depth import DepthMetrics
from perception.metrics.referring import ReferringMetrics

__all__ = ["ConfusionMatrix", "DepthMetrics", "ReferringMetrics"]
