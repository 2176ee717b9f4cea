"""Sum-able metric states: add what two processes saw, then read the figures."""

from perception.metrics.confusion import ConfusionMatrix

__all__ = ["ConfusionMatrix"]
