"""FPN head on the frozen `mini`, CamVid (11 classes, real photographs), trained at 320 x 448.

    python tools/train.py configs/fpn/fpn_mini_camvid.py --data-root data/camvid
    python tools/test.py configs/fpn/fpn_mini_camvid.py runs/fpn_mini_camvid/model --show-dir runs/camvid_pictures

Control (the same head on random weights): add `--cfg-options model.backbone.random_init_seed=0` and a `--work-dir`.
The second epoch reads the feature store: no VAE, no denoiser.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.adamw import *
    from .._base_.camvid import *
    from .._base_.fpn import *
    from .._base_.runtime import *

model["decode_head"].update({"num_classes": 11})
