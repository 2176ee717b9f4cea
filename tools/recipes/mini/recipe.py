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
from perception.errors import UserError
from recipes.mini.autoencoder import (
    AutoencoderTraining,
    build_autoencoder,
    encode_all,
    reconstruction_psnr,
    train_autoencoder,
)
from recipes.mini.corpus import Corpus, build_corpus
from recipes.mini.denoiser import (
    DenoiserTraining,
    TextToNoise,
    train_denoiser,
    validation_loss,
)
from recipes.mini.export import assemble, export_folder, sample_sheet
from recipes.mini.text import tokenize, train_tokenizer
from recipes.mini.training import load_checkpoint


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
    denoiser_batch: int = 16
    compile: bool = False  # the denoiser's training step
    start: Path | None = None  # exported folder whose weights a training without checkpoint starts from
    report: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.start is not None and not self.start.is_dir():
            raise UserError(f"{self.start} is no folder; --start takes an exported one, such as the package's mini")

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
        """That of `start`, or trained on all captions; kept in `work` so that later corpora do not change it."""
        if self.start is not None:
            return CLIPTokenizer.from_pretrained(self.start / "tokenizer")
        folder = self.work / "tokenizer"
        if not folder.exists():
            texts = {text for row in self.corpus().captions for text in row}
            train_tokenizer(texts, [*CLASSES, *OBJECT_CLASSES, *COLORS]).save_pretrained(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def autoencoder(self) -> None:
        """Train the autoencoder."""
        options = AutoencoderTraining(steps=self.autoencoder_steps, seed=self.seed)
        start = (
            None
            if self.start is None
            else AutoencoderKL.from_pretrained(self.start / "vae", torch_dtype=torch.float32, use_safetensors=True)
        )
        train_autoencoder(self.corpus().images, self.work, options, torch.device(self.device), self.report, start)

    def denoiser(self) -> None:
        """Train text encoder and UNet on cached latents."""
        options = DenoiserTraining(
            steps=self.denoiser_steps, batch_size=self.denoiser_batch, seed=self.seed, compile=self.compile
        )
        latents = self._latents() * self._trained_autoencoder().config.scaling_factor
        train_denoiser(
            latents,
            self.corpus(),
            self.tokenizer,
            self.work,
            options,
            torch.device(self.device),
            self.report,
            None if self.start is None else TextToNoise.from_folder(self.start),
        )

    def export(self, folder: Path) -> int:
        """Write the averaged weights as a diffusers folder; returns its size in bytes."""
        return export_folder(assemble(self._trained_autoencoder(), self._trained_denoiser(), self.tokenizer), folder)

    def measure(self) -> dict[str, Any]:
        """HeldRegion-out PSNR [dB] per group, held-out denoising loss, and `samples.png` in the work folder."""
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
        """The averaged weights, scaled so that the latents of the corpus have unit variance."""
        vae, step = self._unscaled_autoencoder()
        if step:
            vae.register_to_config(scaling_factor=round(float(1 / self._latents().float().std()), 5))
        return vae

    def _unscaled_autoencoder(self) -> tuple[AutoencoderKL, int]:
        """The averaged weights and how many steps they were trained here (0: those of `start`, as they are)."""
        state = self._checkpoint("autoencoder")
        if state is None:
            assert self.start is not None
            return AutoencoderKL.from_pretrained(
                self.start / "vae", torch_dtype=torch.float32, use_safetensors=True
            ).eval(), 0
        vae = build_autoencoder().eval()
        vae.load_state_dict(state["average"])
        return vae, state["step"]

    def _trained_denoiser(self) -> TextToNoise:
        state = self._checkpoint("denoiser")
        if state is None:
            assert self.start is not None
            return TextToNoise.from_folder(self.start).eval()
        model = TextToNoise.untrained(self.tokenizer).eval()
        model.load_state_dict(state["average"])
        return model

    def _checkpoint(self, name: str) -> dict[str, Any] | None:
        """The checkpoint of a training; None when the weights of `start` stand for it."""
        state = load_checkpoint(self.work / f"{name}.pt")
        if state is None and self.start is None:
            raise UserError(
                f"{self.work} holds no {name}.pt; train it first with --stages {name}, or name a --start folder"
            )
        return state

    def _latents(self) -> torch.Tensor:
        """Latents of the corpus [N, 4, h, w], encoded once per autoencoder."""
        vae, step = self._unscaled_autoencoder()
        path = self.work / f"latents_{self.scenes}_{self.objects}_{step}.pt"
        if not path.exists():
            self.report(f"encoding {self.scenes + self.objects} pictures")
            partial = path.with_suffix(".partial")
            torch.save(encode_all(vae.to(self.device), self.corpus().images, torch.device(self.device)), partial)
            partial.replace(path)
        return torch.load(path, weights_only=True)
