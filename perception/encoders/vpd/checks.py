"""What can be wrong with the options and inputs of a VPD network, said before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.encoder_maps import check_encoder_strides
from perception.checks import check_tensors
from perception.conditioning import Conditioning
from perception.errors import UserError

if TYPE_CHECKING:
    from perception.encoders.vpd.encoder import VPD

TRAINED = ("head", "text", "denoiser", "lora")


def check_options(
    backbone: DiffusionBackbone,
    conditioning: Conditioning,
    *,
    timestep: int,
    upsample: int,
    encoder_strides: Sequence[int],
    train: str,
    adapter: bool,
    attn_grad: bool,
    checkpointing: bool,
) -> None:
    """UserError for options of `VPD` that do not go together or not with the backbone."""
    backbone.noise_path.check(timestep)
    if any(parameter.requires_grad for parameter in backbone.parameters()):
        raise UserError(
            f"the backbone {backbone.name!r} is being trained by another network, so its weights are not those of its "
            "name; load a fresh one with load_backbone"
        )
    if upsample not in (1, 2, 4, 8) or upsample > backbone.latent_stride:
        raise UserError(
            f"upsample is {upsample}; expected 1, 2, 4 or 8, and at most {backbone.latent_stride}, the stride of the "
            "latent"
        )
    check_encoder_strides(encoder_strides, backbone)
    if any(stride % upsample for stride in encoder_strides):
        raise UserError(
            f"encoder_strides is {tuple(encoder_strides)} on images enlarged {upsample} times; expected multiples of "
            f"{upsample}, as finer maps than the image say nothing new"
        )
    if train not in TRAINED:
        raise UserError(f"train is {train!r}; expected one of {', '.join(TRAINED)}")
    if conditioning.width != backbone.text_width:
        raise UserError(
            f"the conditioning has tokens of width {conditioning.width} and this denoiser attends to text of width "
            f"{backbone.text_width}; make both from the same backbone"
        )
    if attn_grad and checkpointing:
        raise UserError("attn_grad keeps the activations behind the maps; switch checkpointing off to use it")
    if train == "text" and not adapter and not list(conditioning.parameters()):
        raise UserError("train='text' has nothing to train; add adapter=True, or take learned tokens")


def check_training(network: VPD) -> None:
    """UserError where a training would leave parts of the text as they began, or an option without effect."""
    idle = {
        "adapter=True": network.adapter is not None,
        "learned tokens": bool(list(network.conditioning.parameters())),
        "attn_grad=True": network.attn_grad,
    }
    found = [option for option, there in idle.items() if there]
    if network.trained == "head" and found:
        raise UserError(
            f"train='head' trains nothing before the head, so {' and '.join(found)} would have no effect; leave out"
            " what is not wanted, or choose train='text', which trains adapter and tokens too"
        )


def check_sides(value: Tensor, multiple: int, what: str, unit: str) -> None:
    """UserError unless `multiple` divides height and width of `value` [B, C, H, W]; other shapes are not judged.

    Args:
        value: images or latents.
        multiple: in cells of `value`.
        what, unit: for the message, "images" and "pixels".
    """
    check_tensors(**{what: value})
    height, width = value.shape[-2:] if value.dim() == 4 else (0, 0)
    if height % multiple or width % multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise UserError(
            f"the {what} are {height}x{width} {unit}; expected sides that are multiples of {multiple}: "
            f"resize or pad them, for example to {near[0]}x{near[1]}"
        )
