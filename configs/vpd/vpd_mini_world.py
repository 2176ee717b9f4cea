"""VPD on the frozen `mini`, miniature world (19 Cityscapes classes), 2,000 scenes, 128 x 128.

    python tools/train.py configs/vpd/vpd_mini_world.py --amp
    python tools/test.py configs/vpd/vpd_mini_world.py runs/vpd_mini_world/model --show-dir runs/pictures

One hundred labelled scenes and their mirror images, as many steps:

    python tools/train.py configs/vpd/vpd_mini_world.py --amp --work-dir runs/vpd_mini_world_100 \
        --cfg-options train_dataloader.dataset.dataset.count=100 train_dataloader.dataset.views=2 \
        train_cfg.max_epochs=75 train_cfg.val_interval=25

Controls, each with a --work-dir of its own: random weights (`model.backbone.random_init_seed=0`), no text
(`model.backbone.conditioning=empty model.backbone.map_strides=[]`), ResNet-18 from scratch (resnet18_mini_world.py).
mIoU must be clearly above random weights and ResNet-18 on 100 scenes; without text it is as good, as configs/README.md
says. From the second epoch on neither VAE nor denoiser runs. At a quarter of the cost, with a ResNet-18 trained beside
`mini`: `model.backbone.upsample=2 model.backbone.side=resnet18`.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.adamw import *
    from .._base_.runtime import *
    from .._base_.vpd import *
    from .._base_.world import *

# pictures enlarged: five maps, the finest two at stride 2 of the pictures, the VAE encoder's and the denoiser's
model["backbone"].update({"upsample": 4, "encoder_strides": [8]})
model["neck"]["num_outs"] = 5
model["decode_head"]["in_index"] = [0, 1, 2, 3, 4]
optim_wrapper["optimizer"].update({"lr": 4e-3})
