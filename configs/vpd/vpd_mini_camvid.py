"""VPD on the frozen `mini` and a ResNet-18 beside it, CamVid (11 classes, real photographs), trained at 256 x 320.

    python tools/train.py configs/vpd/vpd_mini_camvid.py --data-root data/camvid
    python tools/test.py configs/vpd/vpd_mini_camvid.py runs/vpd_mini_camvid/model --show-dir runs/pictures

One hundred labelled images, as many steps: add `--work-dir runs/vpd_mini_camvid_100 --cfg-options
train_dataloader.dataset.dataset.indices=100 train_cfg.max_epochs=35 train_cfg.val_interval=7`. Controls: random weights
(`model.backbone.random_init_seed=0`), no text (`model.backbone.conditioning=empty model.backbone.map_strides=[]`),
ResNet-18 from scratch (resnet18_mini_camvid.py). Must be clearly above all of them. `mini` alone:
`model.backbone.side=None model.neck.num_outs=4 model.decode_head.in_index=[0,1,2,3]`.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.adamw import *
    from .._base_.camvid import *
    from .._base_.runtime import *
    from .._base_.vpd import *

# 1 / sqrt(share of the training pixels), weighted mean 1, as in fpn_mini_camvid.
_weights = [0.88, 0.75, 3.63, 0.64, 1.7, 1.15, 3.32, 3.39, 1.49, 4.5, 6.66]

model["backbone"].update({"names": "perception.CamVid", "side": "resnet18"})
model["neck"]["num_outs"] = 5  # the finest of stride 4, the ResNet's
model["decode_head"].update({"num_classes": 11, "in_index": [0, 1, 2, 3, 4]})
model["decode_head"]["loss_decode"].update({"class_weight": _weights, "avg_non_ignore": False})
optim_wrapper["optimizer"].update({"lr": 4e-3})
