"""VPD's referring network, Stable Diffusion 1.5 fine-tuned, RefCOCO+ (UNC), 40 tokens per sentence, 512 x 512.

    python tools/train.py configs/vpd/refer_sd15_refcocoplus.py --data-root data/refcoco
    torchrun --nproc-per-node 8 tools/train.py configs/vpd/refer_sd15_refcocoplus.py    # batch 8 x 4 as published
    python tools/test.py configs/vpd/refer_sd15_refcocoplus.py runs/refer_sd15_refcocoplus/model \
        --cfg-options test_dataloader.dataset.split=testA

One GPU: add `--cfg-options optim_wrapper.accumulative_counts=8`. The frozen denoiser, this toolkit's default, with
3 sentences per reference; 5 MB of stored features each, 590 GB in all, or `model.store=None`:

    python tools/train.py configs/vpd/refer_sd15_refcocoplus.py --work-dir runs/frozen --cfg-options \
        model.network.train=head model.network.adapter=False optim_wrapper.optimizer.lr=1e-3 \
        train_dataloader.dataset.views=3

Must reach on val: oIoU 63.93, mIoU 67.98 (published). Cost: 3.5 TFLOP per sentence and
step, 42,278 per epoch, 40 epochs; 10,758 sentences of 0.9 TFLOP in each validation. Needs a GPU; fine-tuning takes
14 GB for weights, gradients and AdamW, and the activations of 4 images.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.refcoco import *
    from .._base_.refer_sd15 import *

train_dataloader["dataset"]["dataset"].update({"name": "refcoco+"})
val_dataloader["dataset"].update({"name": "refcoco+"})
test_dataloader["dataset"].update({"name": "refcoco+"})
