"""Where VPD reads a denoiser: its feature pyramid and the cross-attention layers of each scale."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from perception.backbones.attention import AttentionSpec
from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.spec import Tap
from perception.errors import UserError

_LAYER = re.compile(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)")


def vpd_taps(backbone: DiffusionBackbone) -> tuple[str, ...]:
    """The feature taps, finest first: the last layer of the finest up block, the second of every coarser one.

    A layer is its attention where it has one, else its residual block. For Stable Diffusion 1.x and 2.x:
    up_blocks.3.attentions.2, up_blocks.2.attentions.1, up_blocks.1.attentions.1, up_blocks.0.resnets.1.
    """
    layers: dict[int, dict[int, str]] = {}  # up block -> layer -> tap
    for name in backbone.taps:
        if match := _LAYER.fullmatch(name):
            block, layer = layers.setdefault(int(match[1]), {}), int(match[3])
            if match[2] == "attentions" or layer not in block:
                block[layer] = name
    if not layers:
        raise UserError(f"the backbone {backbone.name!r} has no up blocks; VPD reads denoisers of the UNet family")
    finest = max(layers)
    return tuple(
        layers[block][max(layers[block]) if block == finest else min(1, max(layers[block]))]
        for block in sorted(layers, reverse=True)
    )


def map_layers(
    taps: Mapping[str, Tap],
    strides: Sequence[int],  # of the feature pyramid
    map_strides: Sequence[int],  # scales whose maps are wanted
    places: Sequence[str],  # of up, down; averaged in this order
) -> dict[int, tuple[str, ...]]:
    """The cross-attention layers whose maps are averaged at each scale, stride -> names.

    Raises:
        UserError: a scale without a feature map or without cross-attention, an unknown place.
    """
    AttentionSpec(places=tuple(places) or ("up",))  # raises for an unknown place
    found: dict[int, tuple[str, ...]] = {}
    for stride in map_strides:
        found[stride] = tuple(
            name
            for place in places
            for name, tap in taps.items()
            if tap.kind == "cross_attention" and tap.stride == stride and name.startswith(f"{place}_block")
        )
    with_maps = sorted({tap.stride for tap in taps.values() if tap.kind == "cross_attention"} & set(strides))
    bad = [stride for stride, names in found.items() if not names or stride not in strides]
    if bad or len(set(map_strides)) != len(map_strides):
        raise UserError(
            f"map_strides is {tuple(map_strides)}; expected different ones of {', '.join(map(str, with_maps))}, "
            f"the strides in pixels at which this denoiser has feature maps and cross-attention in {'+'.join(places)}"
        )
    return found
