"""VPD's referring network, Stable Diffusion 1.5 fine-tuned, RefCOCOg (UMD), 77 tokens per sentence, 512 x 512.

    python tools/train.py configs/vpd/refer_sd15_refcocog.py --data-root data/refcoco
    torchrun --nproc-per-node 8 tools/train.py configs/vpd/refer_sd15_refcocog.py    # batch 8 x 4 as published
    python tools/test.py configs/vpd/refer_sd15_refcocog.py runs/refer_sd15_refcocog/model \
        --cfg-options test_dataloader.dataset.split=test

One GPU: add `--cfg-options optim_wrapper.accumulative_counts=8`. The frozen denoiser, this toolkit's default, with
2 sentences per reference; 5 MB of stored features each, 400 GB in all, or `model.store=None`:

    python tools/train.py configs/vpd/refer_sd15_refcocog.py --work-dir runs/frozen --cfg-options \
        model.network.train=head model.network.adapter=False optim_wrapper.optimizer.lr=1e-3 \
        train_dataloader.dataset.views=2

Must reach on val: oIoU 63.12, mIoU 66.42 (published; users reached 60.06, 63.02). Cost: 3.5 TFLOP per sentence and
step, 42,226 per epoch, 40 epochs; 4,896 sentences of 0.9 TFLOP in each validation. Needs a GPU; fine-tuning takes
14 GB for weights, gradients and AdamW, and the activations of 4 images.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.refcoco import *
    from .._base_.refer_sd15 import *

train_dataloader["dataset"]["dataset"].update({"name": "refcocog"})
val_dataloader["dataset"].update({"name": "refcocog"})
test_dataloader["dataset"].update({"name": "refcocog"})
model["network"].update({"length": 77})
