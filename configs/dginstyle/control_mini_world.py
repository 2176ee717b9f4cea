"""Stage B of DGInStyle (ECCV 2024) on `mini`: control by label maps on the frozen denoiser of stage A.

    python tools/train.py configs/dginstyle/source_mini_world.py --amp       # or `model.source=mini-source`, as shipped
    python tools/train.py configs/dginstyle/control_mini_world.py --amp
    perception generate --backbone mini --control runs/control_mini_world/model --labels LABELS --out OUT

`model.source=None` (with a --work-dir of its own) is the control experiment: control trained on the prior itself,
without a swap. `val_loss` is on the source-style denoiser, `val_loss_swapped` on the prior, where generation uses it;
both must fall. runs/control_mini_world/samples show label map, scene, and generated scenes with the swap applied, told
no domain, night and snow.
"""

from mmengine.config import read_base
from perception.training.models.generators import ControlGenerator

with read_base():
    from .._base_.generator_world import *

model.update(
    {
        "type": ControlGenerator,
        "names": "perception.WorldScenes",
        "source": "runs/source_mini_world/model",
        "embedding_channels": [16, 32, 48, 64],
        "parts": "all",
        "snr_bounds": [0.25, 5.0],  # layouts are decided at high noise, which the plain noise error neglects
    }
)
optim_wrapper["optimizer"]["lr"] = 1e-3
train_cfg.update({"max_epochs": 10, "val_interval": 5})
custom_hooks[0]["domains"] = ["none", "night", "snow"]
