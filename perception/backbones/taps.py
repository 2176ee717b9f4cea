"""Reading features out of a running denoiser with forward hooks, and stopping it after the last one."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.attention import AttentionRecorder, HeadReduction
from perception.backbones.denoisers.base import Denoiser
from perception.backbones.spec import Tap, TapKind
from perception.errors import UserError

TapModules = Mapping[str, tuple[nn.Module, TapKind]]
_ATTENTION = ("cross_attention", "self_attention")
_DESCRIBED: dict[tuple[str | int, ...], dict[str, Tap]] = {}  # taps by architecture


class _LastTapReached(Exception):
    """Raised inside the forward pass to leave it; never seen by callers."""


def record(
    forward: Callable[[], Any],
    modules: TapModules,  # what to read
    last: str | None,  # the tap after which to stop; None: run to the end
    heads: HeadReduction = "mean",
    detach_maps: bool = False,  # attentions without gradient
    read: Callable[[Any], Tensor] | None = None,  # the feature in a block's output; None: the output, or its first part
) -> dict[str, Tensor]:
    """Run `forward` and return the outputs of `modules` in order of execution.

    A block or transformer gives its output [B, C, h, w], or [B, N, C] where it works on tokens; an attention gives
    its probabilities [B, K, N] (keys x queries; [B, heads, K, N] with `heads="all"`).
    """
    read = read or first_part
    taken: dict[str, Tensor] = {}

    def take(name: str, value: Tensor) -> None:
        taken[name] = value
        if name == last:
            raise _LastTapReached

    with ExitStack() as stack:
        for name, (module, kind) in modules.items():
            if kind in _ATTENTION:
                stack.enter_context(AttentionRecorder(module, partial(take, name), heads, detach_maps))
            else:
                stack.callback(module.register_forward_hook(_output_hook(name, take, read)).remove)
        stack.enter_context(suppress(_LastTapReached))
        forward()
    return taken


def first_part(output: Any) -> Tensor:
    """A module's output, or the first of several: down blocks return (hidden states, skip connections)."""
    return output[0] if isinstance(output, tuple) else output


def _output_hook(name: str, take: Callable[[str, Tensor], None], read: Callable[[Any], Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        take(name, read(output))

    return hook


def describe_taps(denoiser: Denoiser, latent_stride: int, tokens: int) -> dict[str, Tap]:
    """All taps in order of execution, from one dry forward of the architecture on the meta device.

    Nothing is computed and no table of channel numbers is kept: what the modules return is what they have. Equal
    architectures are described once per process.
    """
    module: Any = denoiser.module
    config = json.dumps(dict(module.config), sort_keys=True, default=str)
    key = (type(denoiser).__name__, type(module).__name__, config, latent_stride, tokens)
    if key not in _DESCRIBED:
        _DESCRIBED[key] = _described(denoiser, latent_stride, tokens)
    return dict(_DESCRIBED[key])


def _described(denoiser: Denoiser, latent_stride: int, tokens: int) -> dict[str, Tap]:
    skeleton = denoiser.skeleton()
    x_t, time, condition = skeleton.probe(tokens)
    modules = skeleton.tap_modules()
    side = x_t.shape[-1]
    with torch.no_grad():
        taken = record(
            lambda: skeleton(x_t, time, condition, latent_stride), modules, last=None, read=skeleton.feature_of
        )
    taps = {"latent": Tap("latent", "latent", denoiser.latent_channels, latent_stride)}
    for name, value in taken.items():
        kind = modules[name][1]
        tokens_first = kind not in _ATTENTION and value.dim() == 3  # [B, N, C]
        channels = 0 if kind == "self_attention" else value.shape[-1 if tokens_first else 1]
        cells = value.shape[-1] if value.dim() == 4 else math.isqrt(value.shape[1 if tokens_first else -1])
        taps[name] = Tap(name, kind, channels, latent_stride * side // cells)
    return taps


def check_taps(names: Iterable[str], taps: Mapping[str, Tap]) -> None:
    """Raise UserError for a name that is not a tap, with the nearest ones that are."""
    for name in names:
        if name not in taps:
            near = difflib.get_close_matches(name, taps, n=4, cutoff=0.3) or list(taps)[:4]
            raise UserError(f"unknown tap {name!r}; the nearest taps of this backbone are {', '.join(near)}")


def in_order(names: Sequence[str], taps: Mapping[str, Tap]) -> list[str]:
    """The names sorted by execution."""
    wanted = set(names)
    return [name for name in taps if name in wanted]


def as_map(value: Tensor, tap: Tap, latent_size: tuple[int, int], latent_stride: int) -> Tensor:
    """Attention probabilities [..., K, N] as maps [..., K, h, w], tokens [B, N, C] as [B, C, h, w]; maps unchanged.

    Levels halve with rounding up, so level l of a latent of h cells has ceil(h / 2^l).
    """
    ratio = tap.stride // latent_stride
    cells = tuple(-(-side // ratio) for side in latent_size)
    if tap.kind in _ATTENTION:
        return value.unflatten(-1, cells)
    return value.transpose(1, 2).unflatten(-1, cells) if value.dim() == 3 else value
