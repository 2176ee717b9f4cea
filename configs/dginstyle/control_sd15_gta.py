"""Stage B of DGInStyle (ECCV 2024): control by label maps on Stable Diffusion 1.5 with the style of GTA 5.

    python tools/train.py configs/dginstyle/control_sd15_gta.py --data-root data/gta --amp

As published: 512 x 512 crops by rare class sampling, batch 2 x accumulation 4 per GPU, AdamW at 1e-5 without a
schedule, gradient norm 1, 100 epochs of 24,766 crops. `val_loss` (on the source-style denoiser) and `val_loss_swapped`
(on the prior) of 200 held-out crops must fall; the published code reports no figure. Not run by us.

    --cfg-options model.source=None        control on the prior itself, without a swap
    --cfg-options model.source=FOLDER      another denoiser, such as U-Net-Source-Finetuned of the published weights
    --cfg-options model.parts=control      conditioning embedding and projections alone; control+first, control+middle
    --cfg-options train_dataloader.dataset.dataset.crop=random             no rare class sampling
    --cfg-options train_dataloader.dataset.dataset.statistics=data/gta/sample_class_stats.json     counted before
"""

from mmengine.config import read_base
from perception.training.data.generator_data import ControlCrops
from perception.training.models.generators import ControlGenerator

with read_base():
    from .._base_.generator_gta import *

model.update(
    {
        "type": ControlGenerator,
        "names": "CityscapesDataset",
        "source": "runs/source_sd15_gta/model",
        "control": None,
        "parts": "all",
    }
)
_labelled = {"type": ControlCrops, "layout": "gta", "names": "CityscapesDataset"}
train_dataloader.update({"batch_size": 2})
train_dataloader["dataset"]["views"] = 100
train_dataloader["dataset"]["dataset"].update({**_labelled, "crop": "rare", "statistics": None})
val_dataloader["dataset"].update({**_labelled, "crop": "centre"})
optim_wrapper["optimizer"]["lr"] = 1e-5
optim_wrapper["accumulative_counts"] = 4
train_cfg.update({"max_iters": 1238300, "val_interval": 4000})
default_hooks["checkpoint"].update({"interval": 8000, "max_keep_ckpts": 20})
custom_hooks[0]["domains"] = ["none", "night", "snowy"]
