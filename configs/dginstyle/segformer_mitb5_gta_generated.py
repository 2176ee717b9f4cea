"""GTA5 and generated images -> five real sets: as `segformer_mitb5_gta.py`, with a folder of `perception generate`.

    GENERATED=runs/gen python tools/train.py configs/dginstyle/segformer_mitb5_gta_generated.py
    ... --cfg-options train_dataloader.dataset.shares=[0.5,0.5]     # default: proportional to the numbers of images
    ... --cfg-options train_dataloader.dataset.datasets.1.filtered=runs/scored      # OUT of `perception score`

GENERATED names the folder (default: runs/generated); its images of 512 x 512 are neither resized nor cropped. Not
measured. Published, with DAFormer's head and the feature distance: 55.31, 50.82, 56.62, 44.04, 25.58, mean 46.47 (three
seeds; arXiv 2312.03048). WORK_DIR/sources.json says how many samples of each source the network was given. Needs a GPU.
"""

from os import getenv

from mmcv.transforms import RandomFlip
from mmengine.config import read_base
from mmseg.datasets import PackSegInputs, PhotoMetricDistortion
from perception.training.data.records import GeneratedScenes
from perception.training.data.transforms import ReadImage, ReadLabels

with read_base():
    from .._base_.gta import *
    from .._base_.segformer_mitb5 import *

_generated = {
    "type": GeneratedScenes,
    "folder": getenv("GENERATED", "runs/generated"),
    "filtered": None,
    "pipeline": [
        {"type": ReadImage},
        {"type": ReadLabels, "num_classes": 19},
        {"type": RandomFlip, "prob": 0.5},
        {"type": PhotoMetricDistortion},
        {"type": PackSegInputs},
    ],
}
train_dataloader["dataset"]["datasets"].append(_generated)
train_dataloader["dataset"].update({"names": ["gta", "generated"]})
