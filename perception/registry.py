"""Where mmengine looks for the names of scope "perception" (`<scope>.registry`), so that `type="perception.X"` works.

Nothing else imports this module: it pulls in mmseg.
"""

from perception.training.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS

__all__ = ["DATASETS", "HOOKS", "METRICS", "MODELS", "TRANSFORMS"]
