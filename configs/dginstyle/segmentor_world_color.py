"""Colour augmentation instead of generated data: as `segmentor_world.py`, with strong photometric distortion.

    python tools/train.py configs/dginstyle/segmentor_world_color.py --amp --work-dir runs/seg_colour_0 \
        --cfg-options randomness.seed=0

mmseg's PhotoMetricDistortion, then StrongColours (albumentations): what generated data must beat.
Results: configs/README.md.
"""

from mmengine.config import read_base
from mmseg.datasets import PhotoMetricDistortion
from perception.training.data.colours import StrongColours

with read_base():
    from .._base_.world_sources import *

train_dataloader["dataset"]["datasets"][0]["pipeline"].insert(2, {"type": PhotoMetricDistortion})
train_dataloader["dataset"]["datasets"][0]["pipeline"].insert(3, {"type": StrongColours})
