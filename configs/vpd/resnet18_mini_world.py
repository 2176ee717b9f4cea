"""Control of vpd_mini_world: timm's ResNet-18 from scratch under the same FPN, data and number of steps.

    python tools/train.py configs/vpd/resnet18_mini_world.py --amp
    python tools/train.py configs/vpd/resnet18_mini_world.py --amp --work-dir runs/resnet18_mini_world_100 \
        --cfg-options train_dataloader.dataset.dataset.count=100 train_dataloader.dataset.views=2 \
        train_cfg.max_epochs=75 train_cfg.val_interval=25
"""

from mmengine.config import read_base

with read_base():
    from .._base_.adamw import *
    from .._base_.resnet18 import *
    from .._base_.runtime import *
    from .._base_.vpd import *
    from .._base_.world import *

model["backbone"] = resnet18
optim_wrapper["optimizer"].update({"lr": 4e-3})
