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

MODELS = Registry("model", parent=mmseg_registry.MODELS, scope="perception", locations=[f"{_HERE}.backbones"])
DATASETS = Registry("dataset", parent=mmseg_registry.DATASETS, scope="perception", locations=[f"{_HERE}.datasets"])
TRANSFORMS = Registry(
    "transform", parent=mmseg_registry.TRANSFORMS, scope="perception", locations=[f"{_HERE}.transforms"]
)
METRICS = Registry("metric", parent=mmseg_registry.METRICS, scope="perception", locations=[f"{_HERE}.metrics"])
HOOKS = Registry("hook", parent=mmseg_registry.HOOKS, scope="perception", locations=[f"{_HERE}.hooks"])
