"""Generated data and strong photometric distortion together: `segmentor_world_generated.py` with colours.

    GENERATED=runs/gen python tools/train.py configs/dginstyle/segmentor_world_generated_color.py --amp \
        --work-dir runs/seg_generated_color_0 --cfg-options randomness.seed=0

Both sources are distorted.
"""

from mmengine.config import read_base
from mmseg.datasets import PhotoMetricDistortion
from perception.training.data.colours import StrongColours

with read_base():
    from .segmentor_world_generated import *

for _number in range(2):
    train_dataloader["dataset"]["datasets"][_number]["pipeline"][-1:-1] = [
        {"type": PhotoMetricDistortion},
        {"type": StrongColours},
    ]
