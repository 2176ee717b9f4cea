"""RefCOCO (UNC) squashed to 512 x 512: every epoch shows another sentence of each reference, evaluation every sentence.

Data: PERCEPTION_REFCOCO, --data-root, or data/refcoco, laid out as the REFER tool wants it; configs/README.md says how.
RefCOCO+ and RefCOCOg: another `name` in the three data sets. Other splits than val:
`test_dataloader.dataset.split=testA`, testB; test for RefCOCOg.

Masks are compared at 512 x 512, as the reference does; `test_dataloader.dataset.pipeline.1.maps=False` compares them at
the size of the photograph.
"""

from os import getenv

from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from perception.training.data.datasets import FixedViews
from perception.training.data.prompted_datasets import RefCOCO
from perception.training.data.prompted_transforms import ReadReference, Squash
from perception.training.data.samplers import EpochViews
from perception.training.metrics import ReferringIoU

_root = getenv("PERCEPTION_REFCOCO", "data/refcoco")
_pipeline = [
    {"type": ReadReference},
    {"type": Squash, "size": (512, 512), "maps": True},
    {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "sentence", "name"]},
]

train_dataloader = {
    "batch_size": 4,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": EpochViews, "shuffle": True},
    "dataset": {
        "type": FixedViews,
        "views": 40,
        "dataset": {"type": RefCOCO, "data_root": _root, "name": "refcoco", "split": "train", "pipeline": _pipeline},
    },
}
val_dataloader = {
    "batch_size": 8,
    "num_workers": 4,
    "persistent_workers": True,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": RefCOCO,
        "data_root": _root,
        "name": "refcoco",
        "split": "val",
        "every": True,
        "pipeline": _pipeline,
        "test_mode": True,
    },
}
test_dataloader = {
    "batch_size": 8,
    "num_workers": 4,
    "sampler": {"type": DefaultSampler, "shuffle": False, "round_up": False},
    "dataset": {
        "type": RefCOCO,
        "data_root": _root,
        "name": "refcoco",
        "split": "val",
        "every": True,
        "pipeline": _pipeline,
        "test_mode": True,
    },
}
val_evaluator = {"type": ReferringIoU}
test_evaluator = {"type": ReferringIoU}
train_cfg = {"type": EpochBasedTrainLoop, "max_epochs": 40, "val_interval": 1}
val_cfg = {"type": ValLoop}
test_cfg = {"type": TestLoop}
