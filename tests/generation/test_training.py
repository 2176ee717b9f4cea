"""Losses and items of both training stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from perception.backbones import DiffusionBackbone, VariancePreservingPath
from perception.data.street_sets import gta_images, gta_train_ids
from perception.errors import UserError
from perception.generation import new_control
from perception.generation.datasets import ControlDataset, SourceDataset
from perception.generation.labels import one_hot
from perception.generation.sampling import LabelCounts, RareClassSampler
from perception.generation.training import ControlTraining, SourceTraining, draw_timesteps, training_target


def _batch(backbone: DiffusionBackbone) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=stream) for _ in range(2))
    return latents, draw_timesteps(2, backbone.noise_path, stream), noise


@pytest.mark.parametrize(
    ("parts", "some"),
    [
        ("all", "mid_block"),
        ("control", "controlnet_mid_block"),
        ("control+first", "down_blocks.0."),
        ("control+middle", "mid_block."),
    ],
)
def test_which_parts_are_trained(tiny_backbone: DiffusionBackbone, street: np.ndarray, parts: str, some: str) -> None:
    control = new_control(tiny_backbone, 20)
    training = ControlTraining(tiny_backbone, control, parts)  # type: ignore[arg-type]
    images = [one_hot(np.stack([street[:64, :64]] * 2), 19)]
    training(*_batch(tiny_backbone), tiny_backbone.condition(["road"]), images).backward()
    trained = {name for name, p in control.named_parameters() if p.requires_grad}
    assert any(name.startswith(some) for name in trained)
    assert (len(trained) == len(list(control.parameters()))) == (parts == "all")
    assert all((p.grad is not None) == (name in trained) for name, p in control.named_parameters())
    assert {name.split(".")[0] for name in training.state_dict()} == {"control"}


def test_source_training_leaves_the_prior_alone(tiny_backbone: DiffusionBackbone) -> None:
    training = SourceTraining(tiny_backbone)
    training(*_batch(tiny_backbone), tiny_backbone.condition([""])).backward()
    assert all(p.grad is not None for p in training.unet.parameters())
    assert all(p.grad is None for p in tiny_backbone.parameters())


def test_target_of_v_prediction() -> None:
    path = VariancePreservingPath(torch.tensor([0.75, 0.25]), "v_prediction")
    latents, noise = torch.ones(1, 1, 1, 1), 2 * torch.ones(1, 1, 1, 1)
    v = training_target(path, latents, noise, torch.tensor([0]))  # alpha eps - sigma x0
    assert v.item() == pytest.approx(0.75**0.5 * 2 - 0.25**0.5)


@pytest.fixture
def gta(tmp_path: Path, street: np.ndarray) -> Path:
    """Two frames with their label maps."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        Image.fromarray(np.repeat(street[..., None], 3, 2)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(street).save(tmp_path / "labels" / f"{i}_labelTrainIds.png")
    return tmp_path


def test_control_items(gta: Path) -> None:
    images = gta_images(gta)
    statistics = [LabelCounts(pair.labels.name, {5: 120, 13: 390}) for pair in images]
    sampler = RareClassSampler(statistics, min_pixels=100)
    data = ControlDataset(images, size=(32, 32), sampler=sampler, seed=1)
    item, again = data[0], data[0]
    assert torch.equal(item.image, again.image) and item.text == again.text
    # the picture's grey levels are its labels
    assert np.array_equal((item.image[0] * 255).round().byte().numpy(), item.labels)
    assert 5 in item.labels or 13 in item.labels
    data.set_epoch(1)
    assert not torch.equal(item.image, data[0].image)
    large = ControlDataset(images, size=(32, 32), crop="random", ratios=(0.5,), seed=1)
    assert large[1].labels.shape == (32, 32)


def test_source_items(gta: Path) -> None:
    files = [pair.image for pair in gta_images(gta)]
    data = SourceDataset(files, size=(32, 32))
    assert data[0].shape == (3, 32, 32) and torch.equal(data[0], data[0])
    with pytest.raises(UserError, match="a crop of 512 x 512 does not fit"):
        SourceDataset(files)[0]


def test_item_errors(gta: Path) -> None:
    images = gta_images(gta)
    with pytest.raises(UserError, match="a sampler exactly for crop='rare'"):
        ControlDataset(images)
    sampler = RareClassSampler([LabelCounts("other.png", {0: 9000})])
    with pytest.raises(UserError, match=r"name other\.png, which is not among the label maps"):
        ControlDataset(images, sampler=sampler)
    (gta / "images" / "1.png").unlink()
    with pytest.raises(UserError, match="1 stems with an image or a label map alone: 1"):
        gta_images(gta)


def test_gta_ids() -> None:
    assert gta_train_ids(np.array([7, 8, 33, 0, 34], np.uint8)).tolist() == [0, 1, 18, 255, 255]
