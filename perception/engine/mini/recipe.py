"""The stages of making `mini`, each resumable, in the order in which they build on each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTokenizer

from perception.data.world import CLASSES, COLORS, OBJECT_CLASSES, TRAIN_SEED, VAL_SEED
from perception.engine.mini.autoencoder import (
    AutoencoderTraining,
    build_autoencoder,
    encode_all,
    reconstruction_psnr,
    train_autoencoder,
)
from perception.engine.mini.corpus import Corpus, build_corpus
from perception.engine.mini.denoiser import (
    DenoiserTraining,
    TextToNoise,
    train_denoiser,
    validation_loss,
)
from perception.engine.mini.export import assemble, export_folder, sample_sheet
from perception.engine.mini.text import tokenize, train_tokenizer
from perception.engine.mini.training import load_checkpoint
from perception.errors import UserError


@dataclass
class MiniRecipe:
    """What `mini` is made from and how long it is trained."""

    work: Path  # corpus, latents and checkpoints
    scenes: int
    objects: int
    autoencoder_steps: int
    denoiser_steps: int
    device: str
    threads: int  # CPU threads, 0 = all
    seed: int
    report: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)

    def corpus(self) -> Corpus:
        """The training pictures (rendered at the first call)."""
        total = self.scenes + self.objects

        def progress(done: int) -> None:
            if done % 1000 == 0:
                self.report(f"corpus {done}/{total}")

        return build_corpus(self.work, TRAIN_SEED, self.scenes, self.objects, os.cpu_count() or 1, progress)

    def held_out(self) -> Corpus:
        """240 scenes and 240 objects that no training sees."""
        return build_corpus(self.work, VAL_SEED, 240, 240, os.cpu_count() or 1)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Trained on all captions of the corpus; kept in `work` so that later corpora do not change it."""
        folder = self.work / "tokenizer"
        if not folder.exists():
            texts = {text for row in self.corpus().captions for text in row}
            train_tokenizer(texts, [*CLASSES, *OBJECT_CLASSES, *COLORS]).save_pretrained(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def autoencoder(self) -> None:
        """Train the autoencoder."""
        options = AutoencoderTraining(steps=self.autoencoder_steps, seed=self.seed)
        train_autoencoder(self.corpus().images, self.work, options, torch.device(self.device), self.report)

    def denoiser(self) -> None:
        """Train text encoder and UNet on cached latents."""
        options = DenoiserTraining(steps=self.denoiser_steps, seed=self.seed)
        latents = self._latents() * self._trained_autoencoder().config.scaling_factor
        train_denoiser(
            latents, self.corpus(), self.tokenizer, self.work, options, torch.device(self.device), self.report
        )

    def export(self, folder: Path) -> int:
        """Write the averaged weights as a diffusers folder; returns its size in bytes."""
        return export_folder(assemble(self._trained_autoencoder(), self._trained_denoiser(), self.tokenizer), folder)

    def measure(self) -> dict[str, Any]:
        """Held-out PSNR [dB] per group, held-out denoising loss, and `samples.png` in the work folder."""
        held_out, device = self.held_out(), torch.device(self.device)
        vae, model = self._trained_autoencoder().to(device), self._trained_denoiser().to(device)
        psnr = reconstruction_psnr(vae, held_out.images, device)
        groups = sorted(set(held_out.groups))
        per_group = {name: psnr[[group == name for group in held_out.groups]].mean().round(2) for name in groups}
        latents = encode_all(vae, held_out.images, device).float() * vae.config.scaling_factor
        captions = [row[0] for row in held_out.captions]
        losses = {
            name: validation_loss(model, latents, tokenize(self.tokenizer, texts), device)
            for name, texts in (("with_caption", captions), ("with_empty_prompt", [""] * len(captions)))
        }
        Image.fromarray(sample_sheet(assemble(vae, model, self.tokenizer), columns=8)).save(self.work / "samples.png")
        return {"psnr_db": {"all": psnr.mean().round(2), **per_group}, "denoising_loss": losses}

    def _trained_autoencoder(self) -> AutoencoderKL:
        vae = build_autoencoder().eval()
        vae.load_state_dict(self._checkpoint("autoencoder")["average"])
        vae.register_to_config(scaling_factor=round(float(1 / self._latents().float().std()), 5))
        return vae

    def _trained_denoiser(self) -> TextToNoise:
        model = TextToNoise(self.tokenizer).eval()
        model.load_state_dict(self._checkpoint("denoiser")["average"])
        return model

    def _checkpoint(self, name: str) -> dict[str, Any]:
        state = load_checkpoint(self.work / f"{name}.pt")
        if state is None:
            raise UserError(f"{self.work} holds no {name}.pt; train it first with --stages {name}")
        return state

    def _latents(self) -> torch.Tensor:
        """Latents of the corpus [N, 4, h, w], encoded once per autoencoder checkpoint."""
        state = self._checkpoint("autoencoder")
        path = self.work / f"latents_{self.scenes}_{self.objects}_{state['step']}.pt"
        if not path.exists():
            vae = build_autoencoder().eval().to(self.device)
            vae.load_state_dict(state["average"])
            self.report(f"encoding {self.scenes + self.objects} pictures")
            partial = path.with_suffix(".partial")
            torch.save(encode_all(vae, self.corpus().images, torch.device(self.device)), partial)
            partial.replace(path)
        return torch.load(path, weights_only=True)
