"""What a generator makes of held-out label maps, drawn at every validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.data.files import write_atomic
from perception.data.pictures import colour_labels, png_bytes
from perception.errors import UserError
from perception.generation import PromptBuilder, SceneGenerator, preset, with_denoiser
from perception.generation.domains import NONE, templates_of
from perception.generation.scenes import noise_stream
from perception.generation.solvers import Solver
from perception.training.hooks import unwrapped
from perception.training.models.generators import ControlGenerator, SourceGenerator
from perception.training.registry import HOOKS


@HOOKS.register_module()
class SamplePictures(Hook):
    """WORK_DIR/samples/<iteration>.png at every validation.

    Stage B: one row per held-out picture: its label map, the picture, and one generated picture per domain, with the
    style swap applied: control on the prior. Stage A: pictures of the source-style denoiser without a prompt.

    Raises:
        UserError: a domain without a template.
    """

    def __init__(
        self,
        count: int = 4,  # held-out pictures
        domains: Sequence[str] = (NONE,),  # of the prompts, e.g. none, night, snow
        steps: int = 20,  # of DDIM
        guidance_scale: float = 7.5,
        interval: int = 1,  # every so many validations
    ) -> None:
        if count < 1 or interval < 1:
            raise UserError(f"SamplePictures has count {count} and interval {interval}; expected at least 1 of each")
        self.count, self.domains, self.steps = count, tuple(domains), steps
        self.guidance_scale, self.interval, self.seen = guidance_scale, interval, 0
        self.templates = templates_of(self.domains, {})

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw one sheet."""
        self.seen += 1
        if self.seen % self.interval:
            return
        model: Any = unwrapped(runner.model)
        data = runner.val_dataloader.dataset
        samples = [data[i] for i in range(min(self.count, len(data)))]
        if isinstance(model, ControlGenerator):
            sheet = self._controlled(model, samples, data.metainfo["palette"])
        else:
            sheet = self._unconditional(model, samples[0]["inputs"].shape[-2:])
        write_atomic(Path(runner.work_dir) / "samples" / f"{runner.iter:06d}.png", png_bytes(sheet))

    def _controlled(
        self, model: ControlGenerator, samples: Sequence[dict[str, Any]], palette: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """[count H, (2 + domains) W, 3]: label map, picture, generated ones."""
        size = (samples[0]["inputs"].shape[-2], samples[0]["inputs"].shape[-1])
        options = preset("exact", size=size, steps=self.steps, guidance_scale=self.guidance_scale, rescale=1.0)
        prompts = PromptBuilder(model.vocabulary.names, self.templates)
        generator = SceneGenerator(model.prior, [model.trained()], options, model.vocabulary, prompts)
        rows = []
        for number, sample in enumerate(samples):
            labels = sample["data_samples"].gt_sem_seg.data[0].numpy().astype(np.uint8)
            scenes = [
                generator.composer(labels, seed=0, sample_id=str(number), domain="" if name == NONE else name)
                for name in self.domains
            ]
            picture = sample["inputs"].numpy().transpose(1, 2, 0)[..., ::-1]
            made = [np.asarray(scene.image) for scene in generator(scenes)]
            rows.append(np.concatenate([colour_labels(labels, palette), picture, *made], axis=1))
        return np.concatenate(rows)

    def _unconditional(self, model: SourceGenerator, size: Sequence[int]) -> np.ndarray:
        """[H, count W, 3]: pictures without prompt or guidance."""
        stride = model.prior.latent_stride
        shape = (model.prior.latent_channels, size[0] // stride, size[1] // stride)
        noise = torch.stack([torch.randn(shape, generator=noise_stream(0, str(i))) for i in range(self.count)])
        frozen = copy.deepcopy(model.trained())  # a backbone freezes its denoiser
        pictures = sampled(with_denoiser(model.prior, frozen), noise, "", self.steps)
        return np.concatenate([np.asarray(picture) for picture in pictures], axis=1)


@torch.no_grad()
def sampled(backbone: DiffusionBackbone, noise: Tensor, prompt: str, steps: int) -> list[Image.Image]:
    """Pictures of one prompt by DDIM without guidance, from standard normal noise [B, C, h, w]."""
    solver = Solver("ddim", backbone.noise_path, steps)
    condition = backbone.condition([prompt])
    latents = noise.to(backbone.device)
    for index, timestep in enumerate(solver.timesteps):
        latents = solver.step(backbone.denoise(latents, timestep, condition).eps, index, latents)
    pixels = (backbone.decode(latents) * 255).round().to(torch.uint8).cpu()
    return [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in pixels]
