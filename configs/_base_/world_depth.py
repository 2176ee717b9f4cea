"""Depth of street scenes of the miniature world at 128 x 128: 2,000 for training, 200 held-out ones; up to 90 metres.

Scenes are rendered when first asked for and kept in runs/world. The sky has no depth and counts nowhere.
"""

from mmengine.config import read_base
from perception.training.data.records import WorldDepth
from perception.training.metrics import DepthErrors

with read_base():
    from .world import *

for _owner in (train_dataloader["dataset"], val_dataloader, test_dataloader):
    _owner["dataset"]["type"] = WorldDepth
val_evaluator = test_evaluator = {"type": DepthErrors, "max_depth": 100.0}
