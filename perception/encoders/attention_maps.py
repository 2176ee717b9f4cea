"""Attention maps for people: where a VPD network looks for each class name, and for each word of a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.conditioning import ClassNames, Sentences
from perception.encoders.vpd.encoder import VPD
from perception.errors import UserError


def check_maps(vpd: VPD | None, kind: type[ClassNames] | type[Sentences]) -> VPD:
    """The network itself. Raises UserError unless it has attention maps whose tokens are class names, or words."""
    if vpd is None or not vpd.map_layers:
        raise UserError("this model reads no attention maps; leave --maps out, or train a VPD model with map_strides")
    if not isinstance(vpd.conditioning, kind):
        wanted = "class names" if kind is ClassNames else "sentences"
        told = type(vpd.conditioning).__name__
        raise UserError(f"this model is told {told}, not {wanted}, so its attention maps have no names; drop --maps")
    return vpd


def token_maps(vpd: VPD, features: Sequence[Tensor]) -> Tensor:
    """The maps that the head reads, averaged over their scales: [B, K, h, w], the finest scale's size, in [0, 1].

    Args:
        vpd: its conditioning has K tokens.
        features: what `vpd` returned; the maps are the last K channels of some of them.
    """
    count = vpd.conditioning.tokens
    told = features[len(vpd.encoder_strides) :]
    parts = [value[:, -count:] for stride, value in zip(vpd.tap_strides, told, strict=True) if stride in vpd.map_layers]
    return torch.stack([F.interpolate(part, parts[0].shape[-2:], mode="bilinear") for part in parts]).mean(dim=0)


def word_tokens(tokenizer: Any, sentence: str, length: int) -> list[tuple[str, list[int]]]:
    """The words of a sentence (between white space) with their token positions below `length`; start and end have none.

    Args:
        tokenizer: a fast tokenizer of transformers, which knows where in the sentence each token is.
        sentence: any text.
        length: tokens that are kept.
    """
    spans = tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"][:length]
    found = []
    for word in re.finditer(r"\S+", sentence):
        inside = [at for at, (start, end) in enumerate(spans) if start < end and word.start() <= start < word.end()]
        if inside:
            found.append((word.group(), inside))
    return found


def word_maps(vpd: VPD, maps: Tensor, sentence: str) -> list[tuple[str, Tensor]]:
    """(word, mean map [h, w] of its tokens) in the order of the sentence; `maps` [K, h, w] are its token maps."""
    words = word_tokens(vpd.backbone.tokenizer, sentence, vpd.conditioning.tokens)
    return [(word, maps[positions].mean(dim=0)) for word, positions in words]
