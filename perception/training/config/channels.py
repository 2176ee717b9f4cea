"""Channels and strides of necks and heads, read from the backbone instead of written into configs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from perception.errors import UserError
from perception.training.config.check import find_type
from perception.training.config.signature import signature_of
from perception.training.registry import MODELS


def with_channels(model: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a segmentor config where missing `in_channels` and `feature_strides` of neck and heads are filled in.

    Given values stay. The backbone must be one that tells them: DiffusionFeatures, VPDFeatures, or
    TIMMBackbone with features_only.

    Raises:
        UserError: a value is missing and the backbone does not tell it, or whatever building the backbone raises.
    """
    filled = copy.deepcopy(dict(model))
    parts = [part for part in (filled.get("neck"), *heads_of(filled)) if part is not None]
    if not any(_lacks(part) for part in parts):
        return filled
    channels, strides = _maps_of(filled["backbone"])
    if filled.get("neck") is not None:
        _fill(filled["neck"], channels, strides)
        levels = filled["neck"].get("num_outs", len(channels))
        channels = [filled["neck"]["out_channels"]] * levels if "out_channels" in filled["neck"] else channels
    for head in heads_of(filled):
        _fill(head, _selected(channels, head.get("in_index", -1)), _selected(strides, head.get("in_index", -1)))
    return filled


def heads_of(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The decode head (or heads) of a segmentor config, then the auxiliary ones; none for other models."""
    heads: list[dict[str, Any]] = []
    for name in ("decode_head", "auxiliary_head"):
        value = model.get(name) or []
        heads += value if isinstance(value, (list, tuple)) else [value]
    return heads


def _lacks(part: Mapping[str, Any]) -> list[str]:
    target = find_type(part["type"])
    names = signature_of(target).names if target else frozenset()
    return [name for name in ("in_channels", "feature_strides") if name in names and name not in part]


def _fill(part: dict[str, Any], channels: Any, strides: Any) -> None:
    values = {"in_channels": channels, "feature_strides": strides}
    part.update({name: values[name] for name in _lacks(part)})


def _selected(values: Sequence[int], index: int | Sequence[int]) -> int | list[int]:
    """The values that a head with `in_index` reads: one number for one map, a list for several."""
    return values[index] if isinstance(index, int) else [values[i] for i in index]


def _maps_of(backbone: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    name = getattr(find_type(backbone["type"]), "__name__", backbone["type"])
    if name in ("DiffusionFeatures", "VPDFeatures"):
        built = MODELS.build({**backbone, "store": None})
        return list(built.channels), list(built.strides)
    if name == "TIMMBackbone" and backbone.get("features_only", True):
        info = MODELS.build({**backbone, "pretrained": False}).timm_model.feature_info
        return list(info.channels()), list(info.reduction())
    if name == "MixVisionTransformer":
        built = MODELS.build({**backbone, "init_cfg": None})
        widths = [built.embed_dims * built.num_heads[stage] for stage in built.out_indices]
        return widths, [prod(built.strides[: stage + 1]) for stage in built.out_indices]
    raise UserError(f"the backbone {name} does not tell its channels; write in_channels into its neck and heads")
