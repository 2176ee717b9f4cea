"""The stages of making `mini-dit`, each resumable: train, tune (against wrong classes), export, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiTTransformer2DModel
from PIL import Image
from torch import Tensor

from perception.data.fashion_mnist import load_fashion_mnist
from perception.errors import UserError
from recipes.mini.dit import build_dit, initialize, latents_of
from recipes.mini.dit_export import export_dit
from recipes.mini.dit_report import accuracy_report, even_timesteps, sample_sheet, score_table
from recipes.mini.dit_training import DiTTraining, train_dit
from recipes.mini.training import load_checkpoint


@dataclass
class DiTRecipe:
    """What `mini-dit` is made from and how long it is trained."""

    work: Path  # checkpoints train.pt and tune.pt
    data: Path  # the four files of Fashion-MNIST
    steps: int  # of plain denoising
    tune_steps: int  # of denoising with a wrong class per picture
    negative_weight: float  # of the wrong classes in the tuning
    device: str
    threads: int  # CPU threads, 0 = all
    seed: int
    batch_size: int = 64
    flip_share: float = 0.0  # pictures mirrored left to right
    report: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)

    def train(self) -> None:
        """Train from random weights to predict the noise."""
        options = DiTTraining(self.steps, self.batch_size, flip_share=self.flip_share, seed=self.seed)
        self._fit(initialize(build_dit(), self.seed), "train", options)

    def tune(self) -> None:
        """Train the result of `train` further, with the cross-entropy against a wrong class per picture."""
        options = DiTTraining(
            self.tune_steps,
            self.batch_size,
            peak_lr=4e-4,
            flip_share=self.flip_share,
            negative_weight=self.negative_weight,
            seed=self.seed + 1,
        )
        self._fit(self.model("train"), "tune", options)

    def export(self, folder: Path, weights: Literal["train", "tune"]) -> int:
        """Write the averaged weights as a diffusers folder; returns its size in bytes."""
        return export_dit(self.model(weights), folder)

    def measure(self, weights: Literal["train", "tune"], images: int, timesteps: int) -> dict[str, Any]:
        """Accuracy over the first `images` test pictures; draws `samples_<weights>.png` into the work folder."""
        model = self.model(weights).to(self.device)
        Image.fromarray(sample_sheet(model)).save(self.work / f"samples_{weights}.png")
        pictures, labels = (torch.from_numpy(part[:images].copy()) for part in load_fashion_mnist(self.data, "test"))
        grid = even_timesteps(timesteps)

        def progress(done: int) -> None:
            if done % 100 == 0:
                self.report(f"scored {done}/{len(pictures)}")

        return accuracy_report(score_table(model, latents_of(pictures), grid, self.seed, progress), labels, grid)

    def model(self, weights: str) -> DiTTransformer2DModel:
        """The averaged weights of a training, in eval mode on the CPU."""
        state = load_checkpoint(self.work / f"{weights}.pt")
        if state is None:
            raise UserError(f"{self.work} holds no {weights}.pt; make it first with --stages {weights}.")
        model = build_dit()
        model.load_state_dict(state["average"])
        return model

    def _fit(self, model: DiTTransformer2DModel, name: str, options: DiTTraining) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / f"{name}.pt"
        train_dit(model, *self._training_set, path, options, torch.device(self.device), self.report)

    @cached_property
    def _training_set(self) -> tuple[Tensor, Tensor]:
        """uint8 [60000, 28, 28] and labels [60000]."""
        images, labels = load_fashion_mnist(self.data, "train")
        return torch.from_numpy(images.copy()), torch.from_numpy(labels)
