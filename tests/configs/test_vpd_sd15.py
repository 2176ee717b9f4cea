"""The published recipe in the configs of VPD on Stable Diffusion 1.5, built on a tiny model instead of its weights."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.structures import SegDataSample
from torch import nn

from perception.conditioning import class_table
from perception.errors import UserError
from perception.training.config.classes import check_classes
from perception.training.config.load import Overrides, complete_model, load_config
from perception.training.registry import DATASETS, MODELS, TRANSFORMS

CONFIGS = {150: "configs/vpd/vpd_sd15_ade20k.py", 19: "configs/vpd/vpd_sd15_cityscapes.py"}


@pytest.fixture(params=CONFIGS, ids=lambda classes: f"{classes} classes")
def classes(request):
    return request.param


def load(classes, *options):
    return load_config(CONFIGS[classes], Overrides(options))


def test_model_trains_the_denoiser_at_the_published_rates(classes, tiny_sd):
    config = load(classes, f"model.backbone.name={tiny_sd}")
    complete_model(config)
    check_classes(config.model.to_dict(), None, "train_dataloader")
    model = MODELS.build(ConfigDict(config.model))
    vpd = model.backbone.vpd
    assert (vpd.trained, vpd.latent_scale, vpd.conditioning.tokens) == ("denoiser", 1.0, classes)
    names = DATASETS.get(config.model.backbone.names).METAINFO["classes"]
    assert torch.equal(vpd.conditioning.table, class_table(vpd.backbone, names, templates=("a photo of a {}",)))
    groups = build_optim_wrapper(model, config.optim_wrapper.to_dict()).optimizer.param_groups
    assert {(round(g["lr"], 12), g["weight_decay"]) for g in groups} == {(8e-5, 1e-3), (8e-6, 1e-3), (8e-5, 0.0)}
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())


def test_frozen_denoiser_by_one_option(classes, tiny_sd):
    options = [f"model.backbone.name={tiny_sd}", "model.backbone.train=text"]
    config = load(classes, *options)
    complete_model(config)
    model = MODELS.build(ConfigDict(config.model))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"backbone", "neck", "decode_head"}
    assert all("adapter" in name for name, p in model.backbone.named_parameters() if p.requires_grad)


def test_schedule(classes):
    """Warm-up factor 1e-6 + (1 - 1e-6) t / 1500 on top of the linear decay 1 - t / 80000."""
    config = load(classes)
    total = config.train_cfg.max_iters
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8e-5)
    built = [PARAM_SCHEDULERS.build({"end": total, **s, "optimizer": optimizer}) for s in config.param_scheduler]
    for t in range(3001):
        wanted = 8e-5 * min(1.0, 1e-6 + (1 - 1e-6) * t / 1500) * (1 - t / total)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-4)
        optimizer.step()
        for scheduler in built:
            scheduler.step()


@pytest.mark.parametrize("size", [(300, 700), (900, 500), (512, 512)])
def test_crops_are_512(classes, size):
    """Any photograph becomes a 512 x 512 crop; what is missing is grey and ignored."""
    config = load(classes)
    steps = [TRANSFORMS.build(step) for step in config.train_dataloader.dataset.to_dict()["pipeline"][2:]]
    values = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    sample = {"img": values, "gt_seg_map": labels, "seg_fields": ["gt_seg_map"], "img_shape": size, "ori_shape": size}
    for step in steps:
        sample = step(sample)
    processed = MODELS.build(config.model.data_preprocessor.to_dict())(
        {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, training=True
    )
    image, truth = processed["inputs"][0], processed["data_samples"][0].gt_sem_seg.data[0]
    assert image.shape == (3, 512, 512) and truth.shape == (512, 512)
    assert (image[:, truth == 255] == 0.5).all()
    assert image.min() >= 0 and image.max() <= 1


def test_long_photographs_are_tested_too(classes, tiny_sd):
    """More than four times as long as high: the windows would be smaller than 512 pixels, and the reference crashes."""
    config = load(classes, f"model.backbone.name={tiny_sd}")
    config.model.update(test_cfg={"mode": "slide", "crop_size": (128, 128), "stride": (85, 85)})
    config.model.data_preprocessor.update(size=(128, 128), test_cfg={"size": (128, 128)})
    complete_model(config)
    model = MODELS.build(ConfigDict(config.model)).eval()
    sample = SegDataSample(metainfo={"ori_shape": (50, 250), "img_shape": (40, 200)})
    with torch.no_grad():
        data = {"inputs": [torch.zeros(3, 40, 200, dtype=torch.uint8)], "data_samples": [sample]}
        (predicted,) = model.test_step(data)
    assert predicted.pred_sem_seg.data.shape == (1, 50, 250)


def test_data_of_another_number_of_classes(classes):
    other = next(count for count in CONFIGS if count != classes)
    names = DATASETS.get(load(other).model.backbone.names).METAINFO["classes"]
    with pytest.raises(UserError, match=f"the head of the model has {classes} classes .* have {other}"):
        check_classes(load(classes).model.to_dict(), names, "test_dataloader")
