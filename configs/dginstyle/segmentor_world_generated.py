"""Source and generated data, half and half: as `segmentor_world.py`, with a folder of `perception generate`.

    GENERATED=runs/gen python tools/train.py configs/dginstyle/segmentor_world_generated.py --amp \
        --work-dir runs/seg_generated_0 --cfg-options randomness.seed=0
    ... --cfg-options train_dataloader.dataset.shares=None          # proportional to the numbers of samples
    ... --cfg-options train_dataloader.dataset.datasets.1.filtered=runs/scored    # OUT of `perception score`

GENERATED names the folder (default: runs/generated), images of 128 x 128. WORK_DIR/sources.json says how many samples
of each source the network was given. Results: configs/README.md.
"""

from os import getenv

from mmcv.transforms import RandomFlip
from mmengine.config import read_base
from mmseg.datasets import PackSegInputs
from perception.training.data.records import GeneratedScenes
from perception.training.data.transforms import ReadImage, ReadLabels

with read_base():
    from .._base_.world_sources import *

_generated = {
    "type": GeneratedScenes,
    "folder": getenv("GENERATED", "runs/generated"),
    "filtered": None,
    "pipeline": [
        {"type": ReadImage},
        {"type": ReadLabels, "num_classes": 19},
        {"type": RandomFlip, "prob": 0.5},
        {"type": PackSegInputs},
    ],
}
train_dataloader["dataset"]["datasets"].append(_generated)
train_dataloader["dataset"].update({"names": ["clear", "generated"], "shares": [0.5, 0.5]})
