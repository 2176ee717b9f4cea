"""The training of `mini-dit`: predict the noise, and optionally tell the true class from a wrong one by it.

The second part follows Krojer et al., Are diffusion models vision-and-language reasoners? (2023), section 4.2
(hard-negative fine-tuning), with a cross-entropy in place of their clipped negative loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from perception.data.fashion_mnist import CLASSES
from recipes.mini.dit import NULL_CLASS, class_errors, latents_of, noise_schedule
from recipes.mini.training import AveragedWeights, learning_rate, load_checkpoint, save_checkpoint, seeded


@dataclass(frozen=True)
class DiTTraining:
    """Options of the training."""

    steps: int = 6000
    batch_size: int = 64
    peak_lr: float = 1e-3
    null_share: float = 0.05  # labels dropped (Ho & Salimans 2022)
    flip_share: float = 0.0  # pictures mirrored left to right; all shoes of Fashion-MNIST point to the left
    snr_limit: float = 5.0  # gamma of min-SNR weighting (Hang et al. 2023)
    negative_weight: float = 0.0  # of the cross-entropy against a wrong class; 0: plain denoising
    sharpness: float = 392.0  # logit = -sharpness * error; 784 / 2: Gaussian log-likelihood with unit variance
    seed: int = 0
    checkpoint_minutes: float = 3.0


def informative_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Stratified timesteps [count] of 0..999, logit-normal (Esser et al. 2024, eq. 19) with median 378.

    Alone, timesteps of 100 to 400 tell the classes of Fashion-MNIST apart best (`accuracy_report`).
    """
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return ((torch.special.ndtri(strata.clamp(1e-6, 1 - 1e-6)) - 0.5).sigmoid() * 1000).long().clamp(max=999)


class WrongClasses:
    """Draws a wrong class per picture, the more often the more the model mistakes the two for each other.

    A pair of classes weighs the same whichever of the two is the true one: otherwise a class with one rival would meet
    it more often than the rival, who has several, meets the class, and would win against it.
    """

    def __init__(self) -> None:
        self.mistaken = torch.full((len(CLASSES), len(CLASSES)), 0.5)  # running P(wrong class) [true, wrong]

    def draw(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A wrong class [B] for every true one [B], and the weights [B] that make up for drawing one per picture."""
        chances = self.mistaken + self.mistaken.T + 0.2 * self.mistaken.mean()
        chances = chances * (1 - torch.eye(len(CLASSES)))
        total = chances.sum(1)
        return torch.multinomial(chances[labels], 1, generator=generator).squeeze(1), (total / total.mean())[labels]

    def update(self, labels: Tensor, wrong: Tensor, chance: Tensor, rate: float = 0.02) -> None:
        """Move the running means towards `chance` [B], the probability that the model gave to `wrong` [B]."""
        for label, other, value in zip(labels.tolist(), wrong.tolist(), chance.tolist(), strict=True):
            self.mistaken[label, other] += rate * (value - self.mistaken[label, other])


@dataclass
class DiTObjective:
    """Min-SNR weighted denoising error, plus `negative_weight` times the cross-entropy of true against wrong class."""

    options: DiTTraining
    alphas: Tensor  # abar [1000], on the device of the model
    wrong: WrongClasses

    def __call__(self, model: nn.Module, latents: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The two terms [2] for latents [B, 1, 28, 28] with labels [B] (CPU); all randomness is of `generator`."""
        device = latents.device
        t = informative_timesteps(len(labels), generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        dropped = torch.rand(len(labels), generator=generator) < self.options.null_share
        shown = torch.where(dropped, NULL_CLASS, labels)[:, None]  # [B, 1]
        if self.options.negative_weight:
            wrong, weights = self.wrong.draw(labels, generator)
            shown = torch.cat([shown, wrong[:, None]], 1)  # [B, 2]
        errors = class_errors(model, latents, shown.to(device), t, noise, self.alphas, torch.bfloat16)
        snr = self.alphas[t] / (1 - self.alphas[t])
        denoising = (snr.clamp(max=self.options.snr_limit) / snr * errors[:, 0]).mean()
        if not self.options.negative_weight:
            return torch.stack([denoising, torch.zeros_like(denoising)])
        contrast = self._contrast(errors[~dropped], shown[~dropped], weights[~dropped])
        return torch.stack([denoising, self.options.negative_weight * contrast])

    def _contrast(self, errors: Tensor, shown: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy of the Diffusion Classifier between the true class (column 0) and the wrong one."""
        logits = -self.options.sharpness * errors
        self.wrong.update(shown[:, 0], shown[:, 1], logits.detach().softmax(1)[:, 1])
        entropy = F.cross_entropy(logits, torch.zeros_like(shown[:, 0]).to(logits.device), reduction="none")
        return (weights.to(logits.device) * entropy).mean()


def draw_batch(images: Tensor, labels: Tensor, options: DiTTraining, step: int) -> tuple[Tensor, Tensor]:
    """Latents [B, 1, 28, 28] and labels [B] of training step `step` from uint8 `images` [N, 28, 28].

    The steps walk through a new order of the pictures in every epoch.
    """
    epoch, place = divmod(step, len(images) // options.batch_size)
    order = torch.randperm(len(images), generator=seeded(options.seed + 1, epoch))
    rows = order[place * options.batch_size : (place + 1) * options.batch_size]
    latents = latents_of(images[rows])
    flipped = torch.rand(len(rows), generator=seeded(options.seed + 2, step)) < options.flip_share
    return torch.where(flipped.view(-1, 1, 1, 1), latents.flip(-1), latents), labels[rows]


def train_dit(
    model: DiTTransformer2DModel,  # the weights to start from, changed in place
    images: Tensor,  # uint8 [N, 28, 28]
    labels: Tensor,  # [N]
    path: Path,  # checkpoint to resume from and to write
    options: DiTTraining,
    device: torch.device,
    report: Callable[[str], None] = print,
) -> DiTTransformer2DModel:
    """Train until `options.steps`, resuming from `path`; returns the averaged weights."""
    model = model.to(device).requires_grad_(True)
    average = AveragedWeights(model)
    optimizer = torch.optim.AdamW(model.parameters(), options.peak_lr, weight_decay=0.0)
    objective = DiTObjective(options, noise_schedule().alphas_cumprod.to(device), WrongClasses())
    step, saved, recent = 0, time.monotonic(), torch.zeros(2)
    state = load_checkpoint(path)
    if state is not None:
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        objective.wrong.mistaken = state["mistaken"]
        recent, step = state["loss"], state["step"]
        average.updates = step
    while step < options.steps:
        latents, shown = draw_batch(images, labels, options, step)
        terms = objective(model, latents.to(device), shown, seeded(options.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.peak_lr)
        optimizer.zero_grad()
        terms.sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step, recent = step + 1, 0.98 * recent + 0.02 * terms.detach().cpu()
        if step % 100 == 0:
            report(f"{path.stem} step {step}/{options.steps} denoising {recent[0]:.4f} wrong class {recent[1]:.4f}")
        if step == options.steps or time.monotonic() - saved > 60 * options.checkpoint_minutes:
            state = {"model": model.state_dict(), "average": average.module.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "mistaken": objective.wrong.mistaken}
            save_checkpoint(path, {**state, "loss": recent, "step": step})
            saved = time.monotonic()
    return average.module
