"""VPD's recipe on Cityscapes (19 classes): Stable Diffusion 1.5 fine-tuned, 80,000 iterations of 16 crops of 512.

    torchrun --nproc-per-node 8 tools/train.py configs/vpd/vpd_sd15_cityscapes.py --data-root data/cityscapes
    python tools/train.py configs/vpd/vpd_sd15_cityscapes.py --cfg-options train_dataloader.batch_size=16   # one GPU
    python tools/test.py configs/vpd/vpd_sd15_cityscapes.py runs/vpd_sd15_cityscapes/model --tta

Validation and test slide windows over the full 1024 x 2048 pixels. The denoiser stays frozen, and only adapter, neck
and head are trained, with `--cfg-options model.backbone.train=text`; without an adapter
`model.backbone.train=head model.backbone.adapter=False optim_wrapper.optimizer.lr=1e-3`.

To reach: not published for VPD; must be clearly above fpn_sd15_cityscapes.py. Cost: as vpd_sd15_ade20k.py for the
training; 18 windows of 1.9 TFLOP per tested image, more than ten times as much with --tta. Needs GPUs; not measured.
"""

from mmcv.transforms import RandomResize
from mmengine.config import read_base
from perception.training.data.transforms import ReadImage, ReadLabels

with read_base():
    from .._base_.by_iterations import *
    from .._base_.cityscapes import *
    from .._base_.vpd_sd15 import *

train_dataloader["batch_size"] = 2  # per process
train_dataloader["dataset"] = train_dataloader["dataset"]["dataset"]  # without fixed views
train_dataloader["dataset"]["pipeline"] = [
    {"type": ReadImage},
    {"type": ReadLabels, "num_classes": 19},
    {"type": RandomResize, "scale": (2048, 1024), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    *random_crops,
]
for _loader in (val_dataloader, test_dataloader):
    _loader["batch_size"] = 1
    _loader["dataset"]["pipeline"][1].update({"scale": (2048, 1024)})
train_cfg.update({"max_iters": 80000, "val_interval": 8000})
default_hooks["checkpoint"].update({"interval": 8000})
model["backbone"].update({"names": "CityscapesDataset"})
model["decode_head"].update({"num_classes": 19})
