"""The text encoder and UNet of `mini`, trained together to predict the noise in cached latents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from perception.backbones.loading.build import randomize
from recipes.mini.corpus import DESCRIPTIONS, Corpus
from recipes.mini.text import build_text_encoder, tokenize
from recipes.mini.training import AveragedWeights, learning_rate, load_checkpoint, save_checkpoint, seeded

WIDTHS = (64, 96, 128, 128)
BLIND_FROM = 900  # timesteps from here on may hide the picture altogether
UNWEIGHTED = (0.0, float("inf"))  # bounds that leave the plain noise error


@dataclass(frozen=True)
class DenoiserTraining:
    """Options of the denoiser training."""

    steps: int = 6000
    batch_size: int = 16
    peak_lr: float = 6e-4
    object_share: float = 0.4  # of every batch; the rest are scenes
    described_share: float = 0.6  # scenes whose caption tells the domain; the others name classes or single things
    empty_share: float = 0.1  # prompts dropped for classifier-free guidance (Ho & Salimans 2022)
    # Weight of the x_0 error: the signal-to-noise ratio within these bounds. The upper one is gamma of min-SNR weights
    # (Hang et al. 2023). The lower one (1 in Salimans & Ho 2022, equation 9) makes high noise count: there the noise
    # error hardly sees the picture.
    snr_bounds: tuple[float, float] = (0.25, 5.0)
    # Rows whose x_t is nothing but noise, at high noise. Sampling starts there, but this schedule never ends in pure
    # noise: a little of the picture shines through and gives its brightness away, so the text would not be asked for it
    # (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed").
    blind_share: float = 0.2
    seed: int = 0
    compile: bool = False  # torch.compile: 1.25 times the throughput on two CPU cores, after half a minute
    checkpoint_minutes: float = 5.0


class TextToNoise(nn.Module):
    """Text encoder and UNet as one trainable module: (x_t, t, token ids) -> predicted noise."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    @classmethod
    def untrained(cls, tokenizer: CLIPTokenizer) -> TextToNoise:
        """SD 1.x geometry with narrow blocks."""
        text_encoder = build_text_encoder(tokenizer)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=WIDTHS,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=text_encoder.config.hidden_size,
            attention_head_dim=4,
        )
        return cls(text_encoder, unet)

    @classmethod
    def from_folder(cls, folder: Path) -> TextToNoise:
        """The weights of an exported diffusers folder, as float32."""
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, use_safetensors=True)
        return cls(
            text_encoder,
            UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, use_safetensors=True),
        )

    def forward(self, x_t: Tensor, t: Tensor, token_ids: Tensor) -> Tensor:
        """[B, 4, h, w], [B], [B, L] -> [B, 4, h, w]."""
        return self.unet(x_t, t, self.text_encoder(token_ids)[0]).sample


def noise_schedule() -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class LatentBatches:
    """Draws training batches: balanced concepts, one random caption each."""

    def __init__(self, latents: Tensor, corpus: Corpus, tokenizer: CLIPTokenizer, options: DenoiserTraining) -> None:
        self.latents, self.captions, self.options = latents, corpus.captions, options  # latents scaled, [N, 4, h, w]
        is_object = np.array([group == "object" for group in corpus.groups])
        self.is_scene = ~is_object
        self.pools = (np.flatnonzero(is_object), np.flatnonzero(~is_object))
        texts = sorted({text for row in corpus.captions for text in row} | {""})
        self.row_of = {text: row for row, text in enumerate(texts)}
        self.token_ids = tokenize(tokenizer, texts)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, h, w] and token ids [B, L] of training step `step`."""
        rng = np.random.default_rng([self.options.seed, step, 13])
        objects = round(self.options.object_share * self.options.batch_size)
        rows = np.concatenate(
            [
                rng.choice(pool, size)
                for pool, size in zip(self.pools, (objects, self.options.batch_size - objects), strict=True)
            ]
        )
        texts = [self._caption(row, rng) for row in rows]
        return self.latents[rows].float(), self.token_ids[[self.row_of[text] for text in texts]]

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        if rng.random() < self.options.empty_share:
            return ""
        captions = self.captions[row]
        if self.is_scene[row] and rng.random() < self.options.described_share:
            captions = captions[:DESCRIPTIONS]
        return captions[rng.integers(len(captions))]


def noise_targets(count: int, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stratified timesteps [count] over 0..999 and standard normal noise [count, *shape]."""
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return (strata * 1000).long().clamp(max=999), torch.randn((count, *shape), generator=generator)


def denoising_loss(
    model: nn.Module,
    latents: Tensor,
    token_ids: Tensor,
    generator: torch.Generator,
    alphas: Tensor,
    snr_bounds: tuple[float, float],
    blind_share: float = 0.0,
) -> Tensor:
    """Mean squared x_0 error weighted by the signal-to-noise ratio within `snr_bounds`, from the predicted noise."""
    t, noise = noise_targets(len(latents), latents.shape[1:], generator)
    blind = torch.rand(len(t), generator=generator) < blind_share
    t = torch.where(blind, BLIND_FROM + t * (1000 - BLIND_FROM) // 1000, t)
    t, noise, blind = t.to(latents.device), noise.to(latents.device), blind.to(latents.device).view(-1, 1, 1, 1)
    alpha = alphas.to(latents.device)[t].view(-1, 1, 1, 1)
    plain = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    x_t = torch.where(blind, noise, plain)
    target = (x_t - alpha.sqrt() * latents) / (1 - alpha).sqrt()  # the noise, where the picture can be seen
    # the fused CPU kernel takes a third of the time of a training step with heads this narrow
    backends = [SDPBackend.MATH] if latents.device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with torch.autocast(latents.device.type, torch.bfloat16), sdpa_kernel(backends):
        predicted = model(x_t, t, token_ids).float()
    snr = (alpha / (1 - alpha)).flatten()
    return ((snr.clamp(*snr_bounds) / snr) * (predicted - target).square().mean((1, 2, 3))).mean()


def train_denoiser(
    latents: Tensor,  # [N, 4, h, w], unit variance
    corpus: Corpus,
    tokenizer: CLIPTokenizer,
    folder: Path,
    options: DenoiserTraining,
    device: torch.device,
    report: Callable[[str], None] = print,
    start: TextToNoise | None = None,  # weights to start from; None: random
) -> TextToNoise:
    """Train until `options.steps`, resuming from `folder/denoiser.pt`; returns the averaged weights."""
    model = start or randomize(TextToNoise.untrained(tokenizer), f"{options.seed}/denoiser")
    model = model.to(device).train()
    average = AveragedWeights(model)
    if options.compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), options.peak_lr, weight_decay=1e-3)
    alphas, batches = noise_schedule().alphas_cumprod, LatentBatches(latents, corpus, tokenizer, options)
    path, step, saved, recent = folder / "denoiser.pt", 0, time.monotonic(), 0.0
    state = load_checkpoint(path)
    if state is not None:
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = average.updates = state["step"]
    while step < options.steps:
        latent, token_ids = (part.to(device) for part in batches(step))
        loss = denoising_loss(
            model,
            latent,
            token_ids,
            seeded(options.seed, step),
            alphas,
            options.snr_bounds,
            options.blind_share,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.peak_lr)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step, recent = step + 1, 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0:
            report(f"denoiser step {step}/{options.steps} loss {recent:.4f}")
        if step == options.steps or time.monotonic() - saved > 60 * options.checkpoint_minutes:
            state = {"model": model.state_dict(), "average": average.module.state_dict()}
            save_checkpoint(path, {**state, "optimizer": optimizer.state_dict(), "step": step})
            saved = time.monotonic()
    return average.module


@torch.no_grad()
def validation_loss(
    model: TextToNoise, latents: Tensor, token_ids: Tensor, device: torch.device, batch_size: int = 50
) -> float:
    """Plain noise-prediction error on held-out latents [N, 4, h, w] with fixed noise; timesteps are stratified."""
    alphas, losses = noise_schedule().alphas_cumprod, []
    for number, start in enumerate(range(0, len(latents), batch_size)):
        rows = slice(start, start + batch_size)
        batch = (latents[rows].float().to(device), token_ids[rows].to(device))
        losses.append(denoising_loss(model, *batch, seeded(1, number), alphas, UNWEIGHTED) * len(batch[0]))
    return float(torch.stack(losses).sum() / len(latents))
