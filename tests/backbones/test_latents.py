"""Images to latents and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.backbones import DiffusionBackbone, load_backbone
from perception.errors import UserError


def test_encode_is_the_scaled_posterior_mean(tiny_backbone: DiffusionBackbone, images: Tensor) -> None:
    mean = tiny_backbone.vae.encode(images * 2 - 1).latent_dist.mean
    latents = tiny_backbone.encode(images)
    assert latents.shape == (3, 4, 8, 9) and latents.is_contiguous()
    torch.testing.assert_close(latents, mean * 0.18215)


def test_decode_undoes_the_scaling(tiny_backbone: DiffusionBackbone, images: Tensor) -> None:
    latents = tiny_backbone.encode(images)
    plain = tiny_backbone.vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(tiny_backbone.decode(latents), (plain / 2 + 0.5).clamp(0, 1))


def test_shift_and_channel_statistics(make_folder, edit, images: Tensor) -> None:
    folder: Path = make_folder("sd1")
    raw = load_backbone(folder, device="cpu").encode(images) / 0.18215
    edit(folder / "vae" / "config.json", shift_factor=0.5, scaling_factor=2.0)
    shifted = load_backbone(folder, device="cpu")
    torch.testing.assert_close(shifted.encode(images), (raw - 0.5) * 2)
    edit(folder / "vae" / "config.json", shift_factor=None, latents_mean=[1, 0, 0, 0], latents_std=[1, 1, 1, 4])
    scaled = load_backbone(folder, device="cpu")
    center, spread = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1), torch.tensor([1.0, 1, 1, 4]).view(1, 4, 1, 1)
    torch.testing.assert_close(scaled.encode(images), (raw - center) / spread * 2)
    for backbone in (shifted, scaled):
        torch.testing.assert_close(
            backbone.decode(backbone.encode(images)), (backbone.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
        )


def test_channels_last_images_give_the_same_latents(tiny_backbone: DiffusionBackbone, images: Tensor) -> None:
    turned = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(tiny_backbone.encode(turned), tiny_backbone.encode(images))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 64, 64), r"shape \[3, 64, 64\]; expected \[batch, 3, height, width\]"),
        (torch.zeros(1, 1, 64, 64), "repeat a grey channel three times"),
        (torch.zeros(1, 64, 64, 3), "move channels first"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.zeros(1, 3, 64, 70), "multiples of 8; resize or pad them, for example to 64x72"),
        (torch.zeros(0, 3, 64, 64), r"shape \[0, 3, 64, 64\]; expected at least one image"),
        (torch.full((1, 3, 64, 64), 200.0), "range from 200 to 200; expected finite values in"),
        (torch.full((1, 3, 64, 64), -1.0), "expected finite values in"),
        (torch.full((1, 3, 64, 64), float("nan")), "remove NaN"),
    ],
)
def test_bad_images(tiny_backbone: DiffusionBackbone, bad: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_backbone.encode(bad)


def test_bad_latents(tiny_backbone: DiffusionBackbone) -> None:
    told = tiny_backbone.condition([""])
    for bad in (torch.zeros(1, 3, 8, 8), torch.zeros(4, 8, 8), torch.zeros(1, 4, 8, 8, dtype=torch.long)):
        for call in (
            lambda bad=bad: tiny_backbone.decode(bad),
            lambda bad=bad: tiny_backbone.noise(bad, 1, torch.zeros(1)),
            lambda bad=bad: tiny_backbone.denoise(bad, 1, told),
        ):
            with pytest.raises(UserError, match=r"expected floats \[batch, 4, height, width\]"):
                call()
    with pytest.raises(UserError, match="2 timesteps were given for a batch of 3"):
        tiny_backbone.denoise(torch.zeros(3, 4, 8, 8), torch.tensor([1, 2]), told)
