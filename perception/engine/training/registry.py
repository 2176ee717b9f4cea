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

_HERE = "perception.engine.training"


def _child(name: str, parent: Registry, *modules: str) -> Registry:
    return Registry(name, parent=parent, scope="perception", locations=[f"{_HERE}.{module}" for module in modules])


_DATASETS = ("datasets", "prompted_data", "generator_data", "mixing", "street_sets")
_TRANSFORMS = ("transforms", "captions", "prompted_transforms", "street_sets", "colours")
MODELS = _child("model", mmseg_registry.MODELS, "backbones", "vpd_features", "captions", "task_models", "generators")
DATASETS = _child("dataset", mmseg_registry.DATASETS, *_DATASETS)
TRANSFORMS = _child("transform", mmseg_registry.TRANSFORMS, *_TRANSFORMS)
METRICS = _child("metric", mmseg_registry.METRICS, "metrics")
HOOKS = _child("hook", mmseg_registry.HOOKS, "hooks", "generator_pictures", "counting")
