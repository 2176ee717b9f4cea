"""Control of vpd_mini_camvid: timm's ResNet-18 from scratch under the same FPN, data and number of steps.

python tools/train.py configs/vpd/resnet18_mini_camvid.py --data-root data/camvid
"""

from mmengine.config import read_base

with read_base():
    from .._base_.resnet18 import *
    from .vpd_mini_camvid import *

model["backbone"] = resnet18
model["neck"]["num_outs"] = 4
model["decode_head"]["in_index"] = [0, 1, 2, 3]
