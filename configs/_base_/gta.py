"""GTA5 as the source of domain generalisation: 1280 x 720, crops of 512 x 512 (DAFormer); tests on five real sets.

Data: PERCEPTION_GTA or data/gta, in it images/<stem>.png and labels/<stem>_labelTrainIds.png; with
`train_dataloader.dataset.datasets.0.dataset.domain=gta_raw` labels/<stem>.png as they are in the archives. Rare class
sampling: `train_dataloader.dataset.datasets.0.temperature=0.01`, and `...0.statistics=FILE` for a
sample_class_stats.json (else all label maps are counted at the start).
"""

from mmcv.transforms import RandomFlip, Resize
from mmengine.config import read_base
from mmengine.runner import IterBasedTrainLoop
from mmseg.datasets import PackSegInputs, PhotoMetricDistortion
from perception.training.data.mixing import MixedSampler, MixedSources, RareClasses
from perception.training.data.records import StreetScenes
from perception.training.data.transforms import RareClassCrop, ReadImage, ReadLabels

with read_base():
    from .street_targets import *

_gta = {
    "type": RareClasses,
    "temperature": None,
    "statistics": None,
    "min_pixels": 3000,
    "dataset": {
        "type": StreetScenes,
        "domain": "gta",
        "pipeline": [
            {"type": ReadImage},
            {"type": ReadLabels, "num_classes": 19},
            {"type": Resize, "scale": (1280, 720), "keep_ratio": False},
            {"type": RareClassCrop, "crop_size": (512, 512), "cat_max_ratio": 0.75, "min_pixels": 1500},
            {"type": RandomFlip, "prob": 0.5},
            {"type": PhotoMetricDistortion},
            {"type": PackSegInputs},
        ],
    },
}
train_dataloader["batch_size"] = 2
train_dataloader["sampler"] = {"type": MixedSampler}
train_dataloader["dataset"] = {"type": MixedSources, "datasets": [_gta], "names": ["gta"], "shares": None}
train_cfg = {"type": IterBasedTrainLoop, "max_iters": 40000, "val_interval": 4000}
