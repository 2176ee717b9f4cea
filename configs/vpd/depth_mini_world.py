"""VPD's depth network on the frozen `mini` and a ResNet-18 beside it, miniature world (metres), 2,000 scenes, 128 px.

    python tools/train.py configs/vpd/depth_mini_world.py --amp
    python tools/test.py configs/vpd/depth_mini_world.py runs/depth_mini_world/model --show-dir runs/pictures

One hundred labelled scenes, as many steps:

    python tools/train.py configs/vpd/depth_mini_world.py --amp --work-dir runs/depth_mini_world_100 \
        --cfg-options train_dataloader.dataset.dataset.count=100 train_cfg.max_epochs=140 train_cfg.val_interval=35

Controls, each with a --work-dir of its own: random weights (`model.network.random_init_seed=0`), ResNet-18 from scratch
(`model.network.encoder=resnet18 model.network.side=None`); `mini` alone is `model.network.side=None`. RMSE and AbsRel
must be below both on 100 scenes. From the second epoch on neither VAE nor denoiser runs.
"""

from mmengine.config import read_base
from perception.depth import DepthNet
from perception.training.models.tasks import DepthEstimator

with read_base():
    from .._base_.adamw import *
    from .._base_.rgb01 import *
    from .._base_.runtime import *
    from .._base_.world_depth import *

model = {
    "type": DepthEstimator,
    "data_preprocessor": {**rgb01, "size_divisor": 1, "seg_pad_val": 0},  # no measurement
    "network": {
        "type": DepthNet,
        "backbone": "mini",
        "conditioning": "empty",
        "max_depth": 100.0,
        "min_depth": 0.5,  # log depth: most of a street is within 10 m
        "fusion_channels": 128,
        "num_filters": [64, 32, 32],
        "decoder_channels": 32,
        "train": "head",
        "upsample": 4,  # finer cells for small pictures
        "random_init_seed": None,
        "side": "resnet18",
        "encoder": None,
    },
    "store": "runs/store",
}
default_hooks["checkpoint"].update({"save_best": "rmse", "rule": "less"})
