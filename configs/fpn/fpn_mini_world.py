"""FPN head on the frozen `mini`, miniature world (19 Cityscapes classes), 2,000 clear-day scenes of 128 x 128.

    python tools/train.py configs/fpn/fpn_mini_world.py
    python tools/test.py configs/fpn/fpn_mini_world.py runs/fpn_mini_world/model \
        --cfg-options test_dataloader.dataset.domain=night
"""

from mmengine.config import read_base

with read_base():
    from .._base_.adamw import *
    from .._base_.fpn import *
    from .._base_.runtime import *
    from .._base_.world import *

optim_wrapper["optimizer"].update({"lr": 4e-3})
