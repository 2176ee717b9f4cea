"""GTA5 -> five real sets, colour augmentation instead of generated data: as `segformer_mitb5_gta.py` + StrongColours.

    python tools/train.py configs/dginstyle/segformer_mitb5_gta_color.py

Not measured. Needs a GPU.
"""

from mmengine.config import read_base
from perception.training.data.colours import StrongColours

with read_base():
    from .._base_.gta import *
    from .._base_.segformer_mitb5 import *

train_dataloader["dataset"]["datasets"][0]["dataset"]["pipeline"].insert(6, {"type": StrongColours})
