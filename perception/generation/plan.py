"""The cost of one scene, counted on the meta device: nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.generation.control import ControlledDenoiser
from perception.generation.labels import mask_on_latents
from perception.generation.options import GenerationOptions
from perception.generation.scenes import Scene
from perception.generation.windows import moves, tiles_of, wanted_tiles


@dataclass(frozen=True)
class PassCost:
    """One pass of one scene. Rows are samples through a network; FLOPs count a multiply-add as two."""

    window: tuple[int, int]  # height, width of a window, latent cells
    denoiser_rows: int
    control_rows: int  # of each control network
    embedded: int  # windows (or whole maps) through the conditioning embedding
    skipped: float  # share of windows left out because all their cells are held


@dataclass(frozen=True)
class SceneCost:
    """Both passes and the autoencoder."""

    passes: tuple[PassCost, ...]
    denoiser_flops: float
    control_flops: float  # of all control networks, embeddings included
    autoencoder_flops: float
    kept_values: int  # numbers in the control embeddings that a pass keeps for all of its steps

    @property
    def evaluations(self) -> int:
        """Rows through the denoiser."""
        return sum(part.denoiser_rows for part in self.passes)

    @property
    def flops(self) -> float:
        """All together."""
        return self.denoiser_flops + self.control_flops + self.autoencoder_flops


class ScenePlanner:
    """Costs of scenes under some options; the networks are counted once per window size."""

    def __init__(self, denoiser: ControlledDenoiser, options: GenerationOptions) -> None:
        self.denoiser, self.options = denoiser, options
        self._flops: dict[tuple[str, int, int], float] = {}

    def __call__(self, scene: Scene | None = None) -> SceneCost:
        """The cost of one scene; None: of a scene that holds nothing, the most there can be."""
        options, stride = self.options, self.denoiser.backbone.latent_stride
        small = (options.size[0] // stride, options.size[1] // stride)
        passes = [pass_cost(options, torch.ones(small, dtype=torch.bool), base=True)]
        if options.rescale > 1:
            large = (options.large_size[0] // stride, options.large_size[1] // stride)
            free = torch.ones(large, dtype=torch.bool) if scene is None else mask_on_latents(scene.held, large) != 1
            passes.append(pass_cost(options, free, base=False))
        return self._total(passes, relit=scene is not None and scene.photo is not None)

    def _total(self, passes: Sequence[PassCost], relit: bool) -> SceneCost:
        options, stride = self.options, self.denoiser.backbone.latent_stride
        large = (options.large_size[0] // stride, options.large_size[1] // stride)
        denoiser = sum(self._count("denoiser", part.window) * part.denoiser_rows for part in passes)
        control = sum(self._count("control", part.window) * part.control_rows for part in passes)
        channels = sum(network.config["block_out_channels"][0] for network in self.denoiser.controls)
        kept = 0
        for number, part in enumerate(passes):
            size = large if moves(options, base=number == 0) else part.window
            control += self._count("embedding", size) * part.embedded
            kept = max(kept, channels * size[0] * size[1] * part.embedded)
        coder = self._count("decoder", options.size)
        if len(passes) > 1:
            coder += self._count("encoder", options.large_size) + self._count("decoder", options.large_size)
        if relit:  # the photo, coded and decoded
            coder += self._count("encoder", options.large_size) + self._count("decoder", options.large_size)
        return SceneCost(tuple(passes), denoiser, control, coder, kept)

    def _count(self, what: str, size: tuple[int, int]) -> float:
        key = (what, *size)
        if key not in self._flops:
            self._flops[key] = float(getattr(self, f"_{what}")(*size))
        return self._flops[key]

    def _denoiser(self, height: int, width: int) -> int:
        backbone = self.denoiser.backbone
        unet: Any = backbone.unet
        inputs = _probe(height, width, backbone.latent_channels, backbone.max_text_tokens, unet.config)
        return _flops(unet, lambda network: network(*inputs[0], **inputs[1]))

    def _control(self, height: int, width: int) -> int:
        backbone, stride = self.denoiser.backbone, self.denoiser.backbone.latent_stride
        total = 0
        for control in self.denoiser.controls:
            args, more = _probe(height, width, backbone.latent_channels, backbone.max_text_tokens, control.config)
            image = _empty(1, control.config["conditioning_channels"], height * stride, width * stride)
            total += _flops(control, lambda n, a=args, i=image, m=more: n(*a, i, 1.0, **m))
        return total - self._embedding(height, width)

    def _embedding(self, height: int, width: int) -> int:
        stride, total = self.denoiser.backbone.latent_stride, 0
        for control in self.denoiser.controls:
            image = _empty(1, control.config["conditioning_channels"], height * stride, width * stride)
            total += _flops(control, lambda network, i=image: network.controlnet_cond_embedding(i))
        return total

    def _decoder(self, height: int, width: int) -> int:
        stride = self.denoiser.backbone.latent_stride
        latents = _empty(1, self.denoiser.backbone.latent_channels, height // stride, width // stride)
        return _flops(self.denoiser.backbone.vae, lambda network: network.decode(latents))

    def _encoder(self, height: int, width: int) -> int:
        return _flops(self.denoiser.backbone.vae, lambda network: network.encode(_empty(1, 3, height, width)))


def pass_cost(options: GenerationOptions, free: Tensor, *, base: bool) -> PassCost:
    """The rows of one pass; `free`: bool [h, w], latent cells that are not held."""
    height, width = free.shape
    first = options.steps - max(1, int(options.strength * options.steps)) if not base else 0
    rows = control = windows = every = 0
    for step in range(first, options.steps):
        tiles = tiles_of(options, height, width, base=base, step=step - first)
        wanted, halves = len(wanted_tiles(tiles, free[None])), 2 if options.guided(step) else 1
        windows, every = windows + wanted, every + len(tiles)
        rows += wanted * halves
        control += wanted * (halves if options.told == "both" else 1)
    steps, region = options.steps - first, tiles[0].window if tiles else None
    window = (region.bottom - region.top, region.right - region.left) if region else (0, 0)
    embedded = 1 if moves(options, base) else windows // steps
    return PassCost(window, rows, control, embedded, 1 - windows / max(every, 1))


def _probe(height: int, width: int, channels: int, tokens: int, config: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of one row for a denoiser or a control network."""
    args = (
        _empty(1, channels, height, width),
        torch.zeros(1, device="meta"),
        _empty(1, tokens, config["cross_attention_dim"]),
    )
    if config["addition_embed_type"] != "text_time":
        return args, {}
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return args, {"added_cond_kwargs": {"text_embeds": _empty(1, pooled), "time_ids": _empty(1, 6)}}


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _flops(module: Any, call: Any) -> int:
    with torch.device("meta"):
        skeleton: nn.Module = type(module).from_config(module.config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(skeleton)
    return counter.get_total_flops()
