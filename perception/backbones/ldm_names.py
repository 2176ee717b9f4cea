"""Names and shapes that diffusers' UNet and VAE encoder have in the original latent-diffusion code (CompVis `ldm`).

The reference projects name their parameters in checkpoints and optimiser rules this way:

    input_blocks.0                conv_in
    input_blocks.{1 + (L+1)i + j} layer j of down block i (L layers each); its downsampler follows as its last entry
    middle_block.{0, 1, 2}        mid block: residual block, attention, residual block
    output_blocks.{(L+1)i + j}    layer j of up block i (L + 1 layers each); its upsampler sits in the last of them
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

UNET_PREFIX = "unet.unet.diffusion_model."  # prefix of the UNet in a checkpoint of VPD
_UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_OUTER = {
    "encoder.mid_block.resnets.0": "encoder.mid.block_1",
    "encoder.mid_block.attentions.0": "encoder.mid.attn_1",
    "encoder.mid_block.resnets.1": "encoder.mid.block_2",
    "encoder.conv_norm_out": "encoder.norm_out",
    **{name: name for name in ("encoder.conv_in", "encoder.conv_out", "quant_conv", "post_quant_conv")},
}
_VAE_INNER = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_LEVEL = re.compile(r"encoder\.down_blocks\.(\d+)\.(resnets|downsamplers)\.(\d+)\.(.+)")


def unet_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers name -> ldm name for all parameters of one `UNet2DConditionModel`.

    All names together tell the number of layers per level, and which levels attend.

    Raises:
        KeyError: a name that no such UNet has.
    """
    names = list(names)
    layers = len({name.split(".")[3] for name in names if name.startswith("down_blocks.0.resnets.")})
    attending = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    return {name: ldm_name(name, layers, attending) for name in names}


def vae_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers name -> ldm name for the encoder and the 1x1 convolutions of one `AutoencoderKL`; no decoder."""
    return {name: _vae_name(name) for name in names if not name.startswith("decoder.")}


def ldm_name(name: str, layers: int = 2, attending: Iterable[str] = ("1", "2", "3")) -> str:
    """The ldm name of one parameter of a UNet, or of a VAE encoder where it starts with `encoder.` or `quant_conv`.

    Args:
        name: diffusers name, such as "up_blocks.1.attentions.0.norm.weight".
        layers: residual blocks per down block of the UNet; 2 in all of Stable Diffusion.
        attending: indices of the up blocks with attention; the default is that of Stable Diffusion 1.x and 2.x.

    Raises:
        KeyError: a name that no such model has.
    """
    if name.startswith(("encoder.", "quant_conv.", "post_quant_conv.")):
        return _vae_name(name)
    match = _LEVEL.fullmatch(name)
    if match is None:
        return _outer_name(name)
    side, level, kind, layer, rest = match.groups()
    first = (layers + 1) * int(level) + (side == "down")
    blocks = "input_blocks" if side == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + layers}.0.{rest.replace('conv.', 'op.')}"
    if kind == "upsamplers":
        return f"{blocks}.{first + layers}.{2 if level in attending else 1}.{rest}"
    inner = _renamed(rest, _UNET_RESIDUAL) if kind == "resnets" else rest
    return f"{blocks}.{first + int(layer)}.{0 if kind == 'resnets' else 1}.{inner}"


def with_shape(value: Tensor, shape: Iterable[int]) -> Tensor:
    """`value` as `shape` where the two differ by trailing ones alone: a linear layer is a 1x1 convolution.

    ldm's VAE attention and SD 1.x's `proj_in`, `proj_out` are convolutions [C, C, 1, 1]; in diffusers the first is
    linear [C, C] always, the others where the config says `use_linear_projection`.
    """
    shape = tuple(shape)
    return value.reshape(shape) if _stripped(tuple(value.shape)) == _stripped(shape) else value


def _outer_name(name: str) -> str:
    place, new = next(((p, n) for p, n in _UNET_OUTER.items() if name.startswith(f"{p}.")), ("", ""))
    if not place:
        raise KeyError(f"{name} is no parameter of a UNet2DConditionModel with an ldm counterpart")
    rest = name.removeprefix(f"{place}.")
    return f"{new}.{_renamed(rest, _UNET_RESIDUAL) if '.resnets.' in place else rest}"


def _vae_name(name: str) -> str:
    match = _VAE_LEVEL.fullmatch(name)
    if match is not None:
        level, kind, layer, rest = match.groups()
        inner = f"block.{layer}.{_renamed(rest, _VAE_INNER)}" if kind == "resnets" else f"downsample.{rest}"
        return f"encoder.down.{level}.{inner}"
    for place, new in _VAE_OUTER.items():
        if name.startswith(f"{place}."):
            return f"{new}.{_renamed(name.removeprefix(f'{place}.'), _VAE_INNER)}"
    raise KeyError(f"{name} is no parameter of an AutoencoderKL encoder with an ldm counterpart")


def _renamed(rest: str, table: dict[str, str]) -> str:
    """`rest` = module path and "weight" or "bias"; modules out of `table` get their new name."""
    module, _, kind = rest.rpartition(".")
    return f"{table.get(module, module)}.{kind}" if module else kind


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
