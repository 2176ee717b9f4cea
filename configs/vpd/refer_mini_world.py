"""VPD's referring network on `mini` with LoRA, miniature world, two sentences each of 2,000 scenes of 128 x 128.

    python tools/train.py configs/vpd/refer_mini_world.py
    python tools/test.py configs/vpd/refer_mini_world.py runs/refer_mini_world/model --show-dir runs/pictures

One hundred labelled scenes (about ten sentences each), 1,000 steps; with --amp, this is the head that ships:

    python tools/train.py configs/vpd/refer_mini_world.py --work-dir runs/refer_mini_world_100 \
        --cfg-options train_dataloader.dataset.dataset.count=100 train_dataloader.dataset.views=20 \
        train_cfg.max_epochs=8 train_cfg.val_interval=8

Controls, each with a --work-dir of its own: random weights (`model.network.random_init_seed=0`), ResNet-18 from scratch
with the sentence in every cell (`model.network.encoder=resnet18`). oIoU must be clearly above both on 100 scenes.

At t = 1 a frozen denoiser has little need of the text: frozen, with the reference's weights of the loss (0.9, 1.1) and
2,000 steps, the decoder ended at 2.7 oIoU on validation. LoRA and the text adapter are therefore trained with it, and
what is referred to, few pixels, weighs more. The store holds latents alone.
"""

from mmengine.config import read_base
from perception.segmentation.referring import ReferringNet
from perception.training.models.tasks import ReferringSegmentor

with read_base():
    from .._base_.adamw import *
    from .._base_.rgb01 import *
    from .._base_.runtime import *
    from .._base_.world_expressions import *

model = {
    "type": ReferringSegmentor,
    "data_preprocessor": {**rgb01, "size_divisor": 1},
    "network": {
        "type": ReferringNet,
        "backbone": "mini",
        "length": 20,
        "hidden": 96,
        "train": "lora",
        "lora_rank": 16,
        "adapter": True,
        "random_init_seed": None,
        "encoder": None,
    },
    "weights": [0.5, 3.0],  # of background and foreground
    "store": "runs/store",
}
optim_wrapper["optimizer"].update({"lr": 1e-3})
train_cfg.update({"max_epochs": 5, "val_interval": 1})
default_hooks["checkpoint"].update({"save_best": "oIoU"})
