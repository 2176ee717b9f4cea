"""What makes this toolkit fast, as ratios measured in one run: a plain path against the fast one that replaces it."""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.loading.build import randomize
from perception.backbones.spec import FeatureSpec, sample_noise
from perception.data.store import TensorStore
from perception.depth import DepthNet, silog_loss
from perception.generation import ControlledDenoiser, GenerationOptions, new_control, preset
from perception.generation.fusion import Guidance, HeldRegion, LatentFusion
from perception.generation.labels import one_hot
from perception.generation.reference import reference_fusion
from perception.jobs.plan import timed
from perception.segmentation.referring import ReferringNet

_CLASSES = 19  # of the label maps that windows are told


@dataclass(frozen=True)
class Row:
    """One comparison; a ratio is the fast path over the plain one, smaller is better."""

    name: str
    plain_seconds: float  # median of the repeats
    fast_seconds: float
    time_ratio: float  # median of the ratios of neighbouring runs
    flop_ratio: float
    evaluations: int  # denoiser rows of either path
    difference: float  # largest difference of the results over their largest value

    def render(self) -> str:
        """One line of the printed table."""
        return (
            f"{self.name:<44} {self.plain_seconds * 1e3:9.1f} {self.fast_seconds * 1e3:9.1f} {self.time_ratio:8.3f}"
            f" {self.flop_ratio:8.3f} {self.evaluations:6d} {self.difference:10.1e}"
        )


HEADER = f"{'':<44} {'plain ms':>9} {'fast ms':>9} {'ratio':>8} {'FLOPs':>8} {'evals':>6} {'difference':>10}"


def compare(
    name: str,
    plain: Callable[[], Tensor],
    fast: Callable[[], Tensor],
    device: torch.device,
    evaluations: int,
    repeats: int = 7,
) -> Row:
    """Run both paths in turns, so that a noisy machine disturbs both alike, and compare time, FLOPs and results."""
    expected, got = plain(), fast()
    seconds = [(timed(plain, device), timed(fast, device)) for _ in range(repeats)]
    return Row(
        name=name,
        plain_seconds=statistics.median(pair[0] for pair in seconds),
        fast_seconds=statistics.median(pair[1] for pair in seconds),
        time_ratio=statistics.median(pair[1] / pair[0] for pair in seconds),
        flop_ratio=_flops(fast) / max(_flops(plain), 1),
        evaluations=evaluations,
        difference=float((expected - got).abs().max() / expected.abs().max()),
    )


@torch.inference_mode()
def early_stop(backbone: DiffusionBackbone, size: int, batch: int) -> Row:
    """Features of up block 1: the whole denoiser with a hook, against leaving it after the tap."""
    latents, noise, condition = inputs(backbone, size, batch)
    x_t = backbone.noise(latents, 50, noise)

    def run(stop: bool) -> Callable[[], Tensor]:
        return lambda: backbone.capture(x_t, 50, condition, ["up_blocks.1"], stop=stop)["up_blocks.1"]

    return compare("up block 1: whole UNet -> early stop", run(False), run(True), backbone.device, batch)


@torch.inference_mode()
def timesteps_in_one_call(backbone: DiffusionBackbone, size: int, batch: int) -> Row:
    """Four timesteps of a few images: one call each, against all timesteps x images in one call."""
    latents, _, _ = inputs(backbone, size, batch)
    steps = (50, 150, 300, 500)

    def spec(timesteps: tuple[int, ...]) -> FeatureSpec:
        return FeatureSpec(taps=("up_blocks.1",), timesteps=timesteps)

    def one_by_one() -> Tensor:
        maps = [backbone.features(latents=latents, spec=spec((step,)))["up_blocks.1"] for step in steps]
        return torch.cat(maps, dim=1)

    def together() -> Tensor:
        return backbone.features(latents=latents, spec=spec(steps), micro_batch=4 * batch)["up_blocks.1"]

    return compare("4 timesteps: one by one -> one call", one_by_one, together, backbone.device, 4 * batch)


@torch.inference_mode()
def referring_sentences(backbone: DiffusionBackbone, size: int, sentences: int = 20) -> Row:
    """Many sentences about one image: each with its own encoding of the image, against one latent for all."""
    network = ReferringNet(backbone).eval().to(backbone.device)
    image = torch.linspace(0, 1, 3 * size * size).view(1, 3, size, size).to(backbone.device)
    told = [f"the thing number {number} on the left" for number in range(sentences)]

    def one_by_one() -> Tensor:
        return torch.cat([network(image, [sentence]) for sentence in told])

    def together() -> Tensor:
        return network.refer(network.vpd.encode(image), told, rows=sentences)

    name = f"{sentences} sentences on one image: one by one -> once"
    return compare(name, one_by_one, together, backbone.device, sentences, repeats=3)


@torch.inference_mode()
def fused_windows(backbone: DiffusionBackbone, size: int) -> Row:
    """DGInStyle's second pass, one step, half of it held: window by window as published, against `LatentFusion`."""
    options, noise, told, held = _second_pass(backbone, size)
    denoiser = _controlled(backbone)

    def one_by_one() -> Tensor:
        return reference_fusion(denoiser, options, noise, told, held())

    def together() -> Tensor:
        return LatentFusion(denoiser, options)(noise, told, held())

    name = "25 windows with control: one by one -> batched"
    return compare(name, one_by_one, together, backbone.device, 2 * 25, repeats=3)


@torch.inference_mode()
def compiled_windows(backbone: DiffusionBackbone, size: int) -> Row:
    """The same pass by `LatentFusion`: as it is, against torch.compile. Compiles `backbone`."""
    options, noise, told, held = _second_pass(backbone, size)
    plain = LatentFusion(_controlled(backbone), options)
    backbone.compile_denoiser()
    compiled = LatentFusion(_controlled(backbone), options)
    name = "25 windows with control: batched -> torch.compile"
    return compare(
        name, lambda: plain(noise, told, held()), lambda: compiled(noise, told, held()), backbone.device, 2 * 25
    )


def training_step(backbone: DiffusionBackbone, size: int, batch: int) -> Row:
    """Forward, backward and AdamW of a depth network: the denoiser is trained, against frozen features from a store.

    The difference is that of the first losses.
    """
    generator = torch.Generator().manual_seed(0)
    images = (torch.randint(0, 256, (batch, 3, size, size), generator=generator) / 255).to(backbone.device)
    metres = (1 + 8 * torch.rand(batch, 1, size, size, generator=generator)).to(backbone.device)
    tuned = DepthNet(copy.deepcopy(backbone), conditioning="empty", train="denoiser", fusion_channels=128)
    frozen = DepthNet(backbone, conditioning="empty", fusion_channels=128)
    frozen.head.load_state_dict(tuned.head.state_dict())

    def step(network: DepthNet, pyramid: Callable[[], tuple[Tensor, ...]]) -> Callable[[], Tensor]:
        optimizer = torch.optim.AdamW(network.to(backbone.device).train().parameters(), lr=1e-5)

        def train() -> Tensor:
            optimizer.zero_grad()
            loss = silog_loss(network.decode(pyramid(), (size, size)), metres)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return train

    with tempfile.TemporaryDirectory() as folder:
        stored = frozen.vpd.stored(TensorStore(Path(folder)))
        plain, fast = step(tuned, lambda: tuned.encoder(images)), step(frozen, lambda: stored(images))
        return compare("training step: fine-tuned -> frozen, stored", plain, fast, backbone.device, batch)


def _controlled(backbone: DiffusionBackbone) -> ControlledDenoiser:
    """The backbone with a control network of random weights that changes something."""
    control = new_control(backbone, _CLASSES + 1)
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        randomize(part, "control")
    return ControlledDenoiser(backbone, [nn.Module.to(control.eval(), backbone.dtype)])


def _second_pass(
    backbone: DiffusionBackbone, size: int
) -> tuple[GenerationOptions, Tensor, Guidance, Callable[[], HeldRegion]]:
    """One step over twice the size, 5 x 5 windows of `size` pixels, of which a row of five lies in what is held."""
    cells = size // backbone.latent_stride
    options = preset("exact", size=(size, size), steps=1, window=cells, stride=cells // 4)
    labels = (np.arange(4 * size * size) // size % _CLASSES).astype(np.uint8).reshape(1, 2 * size, 2 * size)
    told = Guidance(backbone.condition(["", "a street at night"]), [one_hot(labels, _CLASSES)])
    latents = torch.zeros(1, backbone.latent_channels, 2 * cells, 2 * cells, device=backbone.device)
    mask = torch.zeros_like(latents[:, :1])
    mask[..., :cells] = 1
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(backbone.device)
    return options, noise, told, lambda: HeldRegion(latents, mask, [torch.Generator().manual_seed(0)])


def inputs(backbone: DiffusionBackbone, size: int, batch: int) -> tuple[Tensor, Tensor, Any]:
    """Latents and noise [batch, C, size/8, size/8] of a fixed seed, and the empty prompt."""
    cells = size // backbone.latent_stride
    shape = (backbone.latent_channels, cells, cells)
    latents = torch.stack([sample_noise(0, f"image {row}", 0, shape) for row in range(batch)]).to(backbone.device)
    noise = torch.stack([sample_noise(1, f"image {row}", 0, shape) for row in range(batch)]).to(backbone.device)
    return latents, noise, backbone.condition([""])


def _flops(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
