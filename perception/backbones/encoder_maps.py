"""Feature maps of the VAE's encoder: as fine as the latent or finer, from before it drops detail."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.taps import TapModules, record
from perception.errors import UserError


def encoder_channels(backbone: DiffusionBackbone) -> dict[int, int]:
    """Channels of the maps that `encode_with_maps` can give, by their stride in pixels; empty without an AutoencoderKL.

    Stable Diffusion: {2: 128, 4: 256, 8: 512}.
    """
    widths = getattr(backbone.vae, "config", {}).get("block_out_channels", ())
    blocks = _blocks(backbone)
    return {stride: widths[-1 if stride == max(blocks) else level] for level, stride in enumerate(blocks)}


def check_encoder_strides(strides: Sequence[int], backbone: DiffusionBackbone) -> None:
    """UserError unless `strides` are different, ascending ones of `encoder_channels`."""
    known = encoder_channels(backbone)
    if sorted(set(strides)) != list(strides) or not known.keys() >= set(strides):
        there = f"ascending ones of {', '.join(map(str, known))}" if known else "none: this model has no AutoencoderKL"
        raise UserError(f"encoder_strides is {tuple(strides)}; expected {there}")


@torch.no_grad()
def encode_with_maps(
    backbone: DiffusionBackbone, images: Tensor, strides: Sequence[int]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Latents as `backbone.encode`, and the encoder's maps of the same pass, float32 [B, C, H / stride, W / stride].

    Args:
        backbone: with an AutoencoderKL.
        images: RGB [B, 3, H, W] in [0, 1].
        strides: in pixels, of `encoder_channels`; a map is the output of the block that ends at its stride.

    Raises:
        UserError: as `backbone.encode`, and for a stride that is not there.
    """
    check_encoder_strides(strides, backbone)
    blocks = _blocks(backbone)
    modules: TapModules = {str(stride): (blocks[stride], "block") for stride in strides}
    latents: list[Tensor] = []

    def encode(chunk: Tensor) -> None:
        latents.append(backbone.encode(chunk))

    taken = [record(partial(encode, chunk), modules, last=None) for chunk in images.split(backbone.micro_batch)]
    maps = (torch.cat([part[str(stride)] for part in taken]).float() for stride in strides)
    return torch.cat(latents), tuple(value.to(backbone.device) for value in maps)


def _blocks(backbone: DiffusionBackbone) -> dict[int, nn.Module]:
    """The encoder's blocks by the stride at which they end; of the last two, which end at the latent's, the last."""
    encoder, coarsest = getattr(backbone.vae, "encoder", None), backbone.latent_stride
    return {min(2 << level, coarsest): block for level, block in enumerate(getattr(encoder, "down_blocks", ()))}
