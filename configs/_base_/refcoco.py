"""RefCOCO (UNC) squashed to 512 x 512: every epoch shows another sentence of each reference, evaluation every sentence.

Data: PERCEPTION_REFCOCO, --data-root, or data/refcoco, laid out as the REFER tool wants it; configs/README.md says how.
RefCOCO+ and RefCOCOg: another `name` in the three data sets. Other splits than val:
`test_dataloader.dataset.split=testA`, testB; test for RefCOCOg.

Masks are compared at 512 x 512, as the reference does; `test_dataloader.dataset.pipeline.1.maps=False` compares them at
the size of the photograph.
"""

from os import getenv

from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.augment import Squash
from perception.training.data.records import ReadRecord, RefCOCO
from perception.training.data.views import EpochViews, FixedViews
from perception.training.metrics import ReferringIoU

with read_base():
    from .loaders import *

_pipeline = [
    {"type": ReadRecord},
    {"type": Squash, "size": (512, 512), "maps": True},
    {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "sentence", "name"]},
]
_sentences = {
    "type": RefCOCO,
    "data_root": getenv("PERCEPTION_REFCOCO", "data/refcoco"),
    "name": "refcoco",
    "pipeline": _pipeline,
}
_held_out = {**_sentences, "split": "val", "every": True, "test_mode": True}

train_dataloader.update({"batch_size": 4, "sampler": {"type": EpochViews, "shuffle": True}})
train_dataloader["dataset"] = {"type": FixedViews, "views": 40, "dataset": {**_sentences, "split": "train"}}
val_dataloader.update({"batch_size": 8, "dataset": _held_out})
test_dataloader.update({"batch_size": 8, "dataset": {**_held_out}})
val_evaluator = test_evaluator = {"type": ReferringIoU}
train_cfg.update({"max_epochs": 40, "val_interval": 1})
