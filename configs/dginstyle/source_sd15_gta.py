"""Stage A of DGInStyle (ECCV 2024): Stable Diffusion 1.5's denoiser learns the style of GTA 5, without a prompt.

    python tools/train.py configs/dginstyle/source_sd15_gta.py --data-root data/gta --amp

As published: 512 x 512 crops of frames resized by 0.5 to 2, batch 1 x accumulation 2, AdamW at 2e-6 without a schedule,
gradient norm 1, 30,000 steps (60,000 iterations). `val_loss` on 200 held-out frames must fall; the published code
reports no figure. Not run by us. runs/source_sd15_gta/model is what control_sd15_gta.py starts from.
"""

from mmengine.config import read_base
from perception.training.models.generators import SourceGenerator

with read_base():
    from .._base_.generator_gta import *

model["type"] = SourceGenerator
val_dataloader["dataset"]["ratios"] = [1.0]
