"""Label maps in, images out: the two passes of DGInStyle's generator.

generator = SceneGenerator("mini", ["path/to/controlnet"])
(made,) = generator([generator.composer(labels, label=11, domain="night", seed=0, sample_id="frankfurt_3/0")])
made.image.save("0.png")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.loading.hub import revision_of
from perception.backbones.loading.load import load_backbone
from perception.checks import check_kind
from perception.data.images import image_tensor
from perception.errors import UserError
from perception.generation.control import ControlledDenoiser
from perception.generation.detail import transfer_detail
from perception.generation.fusion import Guidance, HeldRegion, LatentFusion
from perception.generation.labels import CITYSCAPES, Vocabulary, mask_on_latents
from perception.generation.options import PRESETS, GenerationOptions
from perception.generation.prompts import PromptBuilder
from perception.generation.scenes import Scene, SceneComposer, control_images, noise_stream, sample_latents
from perception.generation.solvers import Solver
from perception.generation.styles import load_control, network_folder, weights_fingerprint

DETAIL_RADIUS = 6  # pixels: what the autoencoder blurs, less than a latent cell


@dataclass(frozen=True)
class GeneratedScene:
    """One image with its label map and where it comes from."""

    image: Image.Image  # RGB, of the size of the options
    labels: np.ndarray  # uint8 [H, W], 255 kept
    base: Image.Image  # the first pass; the image itself where there is no second one
    brightness: float  # mean pixel of the image in [0, 1]; NaN where a pass is not finite, as float16 may overflow
    record: dict[str, Any]  # provenance, plain JSON values


class SceneGenerator:
    """Images of scenes; results do not depend on which scenes are in a batch, nor on `rows` (up to rounding).

    Raises:
        UserError: control networks that do not fit the backbone, the vocabulary, or the scales of the options.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone | str | Path,  # the prior; or a name for `load_backbone`
        controls: Sequence[nn.Module | str | Path],  # the first one takes label maps
        options: GenerationOptions = PRESETS["exact"],
        vocabulary: Vocabulary = CITYSCAPES,
        prompts: PromptBuilder | None = None,
        *,
        resize: Sequence[float] = (1.0,),  # of whole label maps before the crop, one drawn per sample
        detail_radius: int = DETAIL_RADIUS,  # of scenes with a photo: windows in which it is relit, pixels
        rows: int = 16,  # per call of the denoiser
        dtype: torch.dtype | str = "float32",  # where the backbone is a name
        device: str | torch.device | None = None,  # where the backbone is a name
    ) -> None:
        if not isinstance(backbone, DiffusionBackbone):
            backbone = load_backbone(backbone, dtype=dtype, device=device)
        networks = [c if isinstance(c, nn.Module) else load_control(c, backbone) for c in controls]
        scales = options.control_scales * (len(networks) if len(options.control_scales) == 1 else 1)
        self.denoiser = ControlledDenoiser(backbone, networks, scales, options.told)
        if self.denoiser.channels[0] != vocabulary.channels:
            raise UserError(
                f"the control network takes {self.denoiser.channels[0]} channels, but {len(vocabulary)} classes and "
                f'"ignore" make {vocabulary.channels}; use a control network trained on this vocabulary'
            )
        self.options, self.vocabulary, self.detail_radius = options, vocabulary, detail_radius
        self.composer = SceneComposer(options, vocabulary, prompts, resize)
        self.backbone = backbone
        self.fusion = LatentFusion(self.denoiser, options, rows)
        places = {f"control {n}": network_folder(c) for n, c in enumerate(controls, 1) if isinstance(c, (str, Path))}
        commits = {part: commit for part, place in places.items() if (commit := revision_of(place))}
        self.revisions = {**backbone.revisions, **commits}  # of what came from the hub
        self.model = {
            "backbone": backbone.name,
            "backbone_fingerprint": backbone.fingerprint,
            "controls": [str(c) if not isinstance(c, nn.Module) else type(c).__name__ for c in controls],
            "control_fingerprints": [weights_fingerprint(network) for network in networks],
        }

    @torch.inference_mode()
    def __call__(
        self,
        scenes: Sequence[Scene],
        generators: Sequence[torch.Generator] | None = None,  # None: one per (seed, sample id)
    ) -> list[GeneratedScene]:
        """One image per scene, all passes batched."""
        for number, scene in enumerate(scenes):
            check_kind(Scene, "a SceneComposer makes one of a label map", **{f"scenes[{number}]": scene})
        if generators is None:
            generators = [noise_stream(scene.seed, scene.sample_id) for scene in scenes]
        prompts = [self.options.negative_prompt] * len(scenes) + [scene.prompt.text for scene in scenes]
        condition = self.backbone.condition(prompts, truncate=True)
        bases, sound = self._decoded(self.first_pass(scenes, condition, generators))
        images = bases
        if self.options.rescale > 1:
            enlarged = self.enlarged(bases, generators)
            large, also = self._decoded(self.second_pass(scenes, condition, generators, enlarged))
            height, width = self.options.size
            images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in large]
            sound = [one and other for one, other in zip(sound, also, strict=True)]
        images = [self.with_detail(image, scene) for image, scene in zip(images, scenes, strict=True)]
        return [
            GeneratedScene(image, scene.labels, base, _brightness(image) if good else math.nan, self.record(scene))
            for scene, image, base, good in zip(scenes, images, bases, sound, strict=True)
        ]

    def first_pass(self, scenes: Sequence[Scene], condition: Any, generators: Sequence[torch.Generator]) -> Tensor:
        """Latents [B, C, H/8, W/8] of the whole scenes; `condition`: negative prompts, then prompts."""
        noise = self._noise(generators, self.options.size)
        return self.fusion(noise, Guidance(condition, control_images(scenes, len(self.vocabulary), 1)))

    def enlarged(self, bases: Sequence[Image.Image], generators: Sequence[torch.Generator]) -> Tensor:
        """Latents [B, C, rH/8, rW/8] of first-pass images at the size of the second pass, drawn from the posterior."""
        height, width = self.options.large_size
        noise = self._noise(generators, (height, width))
        large = [image_tensor(image.resize((width, height), Image.Resampling.LANCZOS)) for image in bases]
        rows = [sample_latents(self.backbone, p[None], n[None]) for p, n in zip(large, noise, strict=True)]
        return torch.cat(rows)

    def second_pass(
        self, scenes: Sequence[Scene], condition: Any, generators: Sequence[torch.Generator], latents: Tensor
    ) -> Tensor:
        """Latents [B, C, rH/8, rW/8] in which large components follow `latents`, those of the enlarged first pass."""
        options, size = self.options, self.options.large_size
        noise = self._noise(generators, size).to(latents.device)
        skipped = options.steps - max(1, int(options.strength * options.steps))
        if skipped:
            start = Solver(options.solver, self.backbone.noise_path, options.steps, skipped).timesteps[0]
            noise = self.backbone.noise(latents, start, noise)
        guidance = Guidance(condition, control_images(scenes, len(self.vocabulary), options.rescale))
        masks = np.stack([scene.held for scene in scenes])[:, None]  # [B, 1, H, W]
        held = HeldRegion(latents, mask_on_latents(masks, (latents.shape[-2], latents.shape[-1])), generators)
        return self.fusion(noise, guidance, held, skipped)

    def with_detail(self, image: Image.Image, scene: Scene) -> Image.Image:
        """The scene's photo in the light of a generated image; the image itself where the scene has no photo."""
        if scene.photo is None:
            return image
        photo, (height, width) = Image.fromarray(scene.photo), self.options.large_size
        large = image_tensor(photo.resize((width, height), Image.Resampling.LANCZOS))[None].to(self.backbone.device)
        (coded,) = self.decode(self.backbone.encode(large))
        coded = coded.resize(photo.size, Image.Resampling.LANCZOS)
        tensors = [image_tensor(picture)[None] for picture in (image, photo, coded)]
        return _picture(transfer_detail(tensors[0], tensors[1], tensors[2], self.detail_radius)[0])

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents [B, C, h, w] -> RGB images, one at a time: a large decoder call holds gigabytes."""
        return self._decoded(latents)[0]

    def record(self, scene: Scene) -> dict[str, Any]:
        """Provenance of one sample: prompt, random streams, by which models and options."""
        return {
            "sample_id": scene.sample_id,
            "seed": scene.seed,
            "resize": scene.resize,
            "box": list(scene.box),
            "prompt": scene.prompt.text,
            "domain": scene.prompt.domain,
            "held_share": float(scene.held.mean()),
            "options": self.options.to_json(),
            "safety_checker": "off",
            **self.model,
        }

    def _decoded(self, latents: Tensor) -> tuple[list[Image.Image], list[bool]]:
        """RGB images, and whether latents and pixels of each are finite."""
        pixels = [self.backbone.decode(row[None])[0] for row in latents]
        sound = [bool(row.isfinite().all() and p.isfinite().all()) for row, p in zip(latents, pixels, strict=True)]
        return [_picture(p) for p in pixels], sound

    def _noise(self, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
        """Standard normal [B, C, H/8, W/8] on the CPU, from the streams of the samples."""
        stride = self.backbone.latent_stride
        shape = (self.backbone.latent_channels, size[0] // stride, size[1] // stride)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _brightness(image: Image.Image) -> float:
    return float(np.asarray(image).mean()) / 255


def _picture(pixels: Tensor) -> Image.Image:
    """[3, H, W] in [0, 1] -> RGB."""
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy())
