"""Attention probabilities of single layers, and the field's ways of averaging them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones.spec import Tap
from perception.errors import UserError

HeadReduction = Literal["mean", "max", "all"]
_SMALL = 2**17  # entries of one head's matrix: 1,024 cells x 128 tokens


class AttentionRecorder(AbstractContextManager["AttentionRecorder"]):
    """Computes softmax(Q K^T / sqrt(d)) of one diffusers `Attention` while it runs.

    It listens to the query and key projections, so whatever processor computes the layer's output (SDPA, a fused
    kernel, a custom one) stays in place and its numbers do not change; layers without a recorder cost nothing.
    """

    def __init__(
        self,
        attention: nn.Module,  # diffusers Attention with to_q and to_k
        receive: Callable[[Tensor], None],  # gets probabilities [B, K, N], or [B, heads, K, N] for "all"
        heads: HeadReduction = "mean",
        detach: bool = False,  # probabilities without gradient
    ) -> None:
        self.attention: Any = attention
        self.detach = detach
        self.receive = receive
        self.heads = heads
        self._query: Tensor | None = None
        self._bias: Tensor | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> AttentionRecorder:
        self._hooks = [
            self.attention.register_forward_pre_hook(self._on_call, with_kwargs=True),
            self.attention.to_q.register_forward_hook(self._on_query),
            self.attention.to_k.register_forward_hook(self._on_key),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _on_call(self, module: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
        # the mask of padding tokens as diffusers passes it on: a bias [B, 1, K] on the scores
        self._bias = options.get("attention_mask")

    def _on_query(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._query = output

    def _on_key(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # diffusers' processors project the query first
        query, self._query = self._query, None
        if query is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
                probabilities = attention_probabilities(self.attention, query, output, self.heads, self._bias)
            self.receive(probabilities)


def attention_probabilities(
    attention: Any, query: Tensor, key: Tensor, heads: HeadReduction = "mean", bias: Tensor | None = None
) -> Tensor:
    """softmax over the keys, in float32; large layers one head at a time, so that the peak is one head's matrix.

    Args:
        attention: a diffusers `Attention`; gives the number of heads, the scale and the query/key norms.
        query, key: projected [B, N, heads*d] and [B, K, heads*d].
        heads: reduction over the heads.
        bias: added to the scores, [B, 1, K]; large and negative where a token is padding.

    Returns:
        [B, K, N], for `heads="all"` [B, heads, K, N], in the dtype of `query`. Sums to 1 over K for "mean" and "all".
    """
    split_query, split_key = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (query, key))
    if attention.norm_q is not None:
        split_query = attention.norm_q(split_query)
    if attention.norm_k is not None:
        split_key = attention.norm_k(split_key)
    scale = split_query.shape[-1] ** -0.5  # as in scaled_dot_product_attention

    def softmax(some: slice) -> Tensor:
        q, k = split_query[:, some].float(), split_key[:, some].float()
        with _exact(q):
            scores = q @ k.transpose(-1, -2) * scale  # [B, heads, N, K]
            scores = scores if bias is None else scores + bias.float()[:, None]
            return scores.softmax(dim=-1).transpose(-1, -2)  # [B, heads, K, N]

    at_once = attention.heads if query.shape[1] * key.shape[1] <= _SMALL else 1
    groups = (slice(head, head + at_once) for head in range(0, attention.heads, at_once))
    if heads == "all":
        return torch.cat([softmax(some) for some in groups], dim=1).to(query.dtype)
    reduce, join = (torch.sum, torch.add) if heads == "mean" else (torch.amax, torch.maximum)
    total = functools.reduce(join, (reduce(softmax(some), dim=1) for some in groups))
    return (total / attention.heads if heads == "mean" else total).to(query.dtype)


def _exact(value: Tensor) -> AbstractContextManager[Any]:
    """No autocast, which would round the products; the meta device knows none."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


PLACES = ("up", "down", "mid", "transformer")  # the blocks of a U-Net; all blocks of a transformer


@dataclass(frozen=True)
class AttentionSpec:
    """Which attention maps to take and how to average them."""

    kind: Literal["cross_attention", "self_attention"] = "cross_attention"
    places: tuple[str, ...] = ("up", "down")  # of PLACES; averaged in this order (VPD: up first, then down)
    max_size: int | None = None  # keep layers with h*w <= max_size^2 (latent cells); None: all
    heads: HeadReduction = "mean"  # over the heads of a layer
    merge: Literal["layer", "resolution", "all"] = "resolution"  # one map per layer, per stride, or a single one
    tokens: tuple[int, ...] | None = None  # key positions to keep, e.g. the words of a class name; None: all

    def __post_init__(self) -> None:
        choices = {
            "kind": ("cross_attention", "self_attention"),
            "heads": ("mean", "max", "all"),
            "merge": ("layer", "resolution", "all"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"AttentionSpec.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}"
                )
        if not self.places or not set(self.places) <= set(PLACES):
            raise UserError(f"AttentionSpec.places is {self.places!r}; expected some of {', '.join(PLACES)}")
        if self.kind == "self_attention" and self.merge == "all":
            raise UserError("self-attention maps of different sizes have different tokens; use merge='resolution'")


def select_layers(spec: AttentionSpec, taps: Mapping[str, Tap], latent_size: tuple[int, int], stride: int) -> list[str]:
    """The attention taps that `spec` keeps, in the order in which they are averaged.

    Raises:
        UserError: when no layer is left.
    """

    def cells(tap: Tap) -> int:
        ratio = tap.stride // stride
        return -(-latent_size[0] // ratio) * -(-latent_size[1] // ratio)

    limit = float("inf") if spec.max_size is None else spec.max_size**2
    names = [
        name
        for place in spec.places
        for name, tap in taps.items()
        if tap.kind == spec.kind and name.startswith(place) and cells(tap) <= limit
    ]
    if not names:
        raise UserError(
            f"no {spec.kind} layer of this backbone matches places={spec.places} and max_size={spec.max_size}; "
            f"raise max_size or name more places ({', '.join(PLACES[:3])} of U-Nets, {PLACES[3]} of transformers)"
        )
    return names


def merge_maps(maps: Mapping[str, Tensor], taps: Mapping[str, Tap], spec: AttentionSpec) -> dict[str | int, Tensor]:
    """Average maps of several layers with equal weight.

    Args:
        maps: layer -> [B, K, h, w] (or [B, heads, K, h, w]), in the order of summation.
        taps: the backbone's taps, for strides.
        spec: `merge` and `tokens` are read.

    Returns:
        layer -> map; or stride in pixels -> mean over the layers of that stride; or {"all": mean over all layers,
        each resized bilinearly to the finest map} (as in DAAM, Tang et al. 2023).
    """
    if spec.tokens is not None:
        maps = {name: _keep_tokens(value, spec.tokens) for name, value in maps.items()}
    groups: dict[str | int, list[Tensor]] = {}
    for name, value in maps.items():
        keys: dict[str, str | int] = {"layer": name, "resolution": taps[name].stride, "all": "all"}
        groups.setdefault(keys[spec.merge], []).append(value)
    return {key: _mean(values) for key, values in groups.items()}


def _keep_tokens(value: Tensor, tokens: Sequence[int]) -> Tensor:
    if min(tokens) < 0 or max(tokens) >= value.shape[-3]:
        raise UserError(f"token positions {tuple(tokens)} are outside 0..{value.shape[-3] - 1} of the condition")
    return value[..., list(tokens), :, :]


def _mean(values: list[Tensor]) -> Tensor:
    if len({v.shape[1] for v in values if v.dim() == 5}) > 1:
        raise UserError("these layers have different numbers of heads; use heads='mean' or merge='layer'")
    size = max((v.shape[-2:] for v in values), key=lambda s: s[0] * s[1])
    same = [v if v.shape[-2:] == size else _resize(v, size) for v in values]
    return torch.stack(same).mean(dim=0)


def _resize(value: Tensor, size: torch.Size) -> Tensor:
    flat = F.interpolate(value.flatten(0, -4).float(), size=tuple(size), mode="bilinear", align_corners=False)
    return flat.to(value.dtype).reshape(*value.shape[:-2], *size)
