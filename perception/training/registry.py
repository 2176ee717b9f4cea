"""Child registries of mmseg's, scope "perception": `type="perception.DiffusionFeatures"` in any mmengine config."""

import io
import warnings
from contextlib import redirect_stdout

with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # mmcv and mmseg report optional parts that are absent
    warnings.simplefilter("ignore")
    import mmseg.datasets
    import mmseg.models  # noqa: F401 (registers)

from mmengine.registry import Registry
from mmseg import registry as mmseg_registry

_HERE = "perception.training"


def _child(name: str, parent: Registry, *modules: str) -> Registry:
    return Registry(name, parent=parent, scope="perception", locations=[f"{_HERE}.{module}" for module in modules])


_MODELS = ("backbones", "features", "prompted", "tasks", "generators")
_DATASETS = ("records", "views", "generator_data", "mixing")
_TRANSFORMS = ("records", "transforms", "augment", "colours")
MODELS = _child("model", mmseg_registry.MODELS, *(f"models.{name}" for name in _MODELS))
DATASETS = _child("dataset", mmseg_registry.DATASETS, *(f"data.{name}" for name in _DATASETS))
TRANSFORMS = _child(
    "transform", mmseg_registry.TRANSFORMS, "models.prompted", *(f"data.{name}" for name in _TRANSFORMS)
)
METRICS = _child("metric", mmseg_registry.METRICS, "metrics")
HOOKS = _child("hook", mmseg_registry.HOOKS, "hooks", "generator_pictures", "source_counts")
