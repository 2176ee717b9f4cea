"""From a label map to a generator's inputs (crop, prompt, held mask), all from one random stream per sample."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.errors import UserError
from perception.generation.crops import Below, below, centre_box, class_box, cut
from perception.generation.labels import CITYSCAPES, Box, Vocabulary, check_label_map, large_components, one_hot
from perception.generation.options import GenerationOptions
from perception.generation.prompts import Draws, Prompt, PromptBuilder


@dataclass(frozen=True)
class Scene:
    """One image to be made."""

    labels: np.ndarray  # uint8 [H, W]: class ids of the crop, 255 ignored
    prompt: Prompt
    box: Box  # of the crop in the source map, resized
    held: np.ndarray  # bool [H, W]: held on the first pass
    seed: int
    sample_id: str
    others: tuple[np.ndarray, ...] = field(default=())  # control images float [C, H, W] of further control networks
    resize: float = 1.0  # of the source map, before the crop
    photo: np.ndarray | None = None  # uint8 [H, W, 3]: what the label map is of; its detail is kept


class SceneComposer:
    """Label maps to scenes; what it decides is a function of (label map, class, domain, seed, sample id) alone.

    Raises:
        UserError: a resize factor that is not above 0.
    """

    def __init__(
        self,
        options: GenerationOptions,
        vocabulary: Vocabulary = CITYSCAPES,
        prompts: PromptBuilder | None = None,  # None: the reference's weather prompts
        resize: Sequence[float] = (1.0,),  # factors of the whole map before the crop, one drawn per sample
    ) -> None:
        check_resize(resize)
        self.options = options
        self.vocabulary = vocabulary
        self.prompts = prompts or PromptBuilder(vocabulary.names)
        self.resize = tuple(resize)

    def __call__(
        self,
        labels: np.ndarray,  # uint8 [H, W]
        *,
        seed: int,
        sample_id: str,
        label: int | None = None,  # class to crop around; None: the middle
        domain: str | None = None,  # of the prompt; None: drawn, "": none
        others: Sequence[np.ndarray] = (),  # control images float [C, H, W] beside the label map, as large as it
        photo: np.ndarray | None = None,  # RGB uint8 [H, W, 3], what the label map is of
    ) -> Scene:
        """The scene of one sample.

        Raises:
            UserError: for a map of a wrong type, with unknown ids, smaller than the crop, or without the class, an
                unknown domain, and control images or a photo of another size.
        """
        rng = layout_stream(seed, sample_id)
        return self.compose(labels, below(rng), rng, label, domain, others, seed, sample_id, photo)

    def compose(
        self,
        labels: np.ndarray,
        draw: Below,  # which of several resize factors, then which pixel of the class
        weather: Draws,  # the domain
        label: int | None,
        domain: str | None,
        others: Sequence[np.ndarray] = (),
        seed: int = 0,
        sample_id: str = "",
        photo: np.ndarray | None = None,
    ) -> Scene:
        """As a call, from given streams."""
        labels = check_label_map(labels, len(self.vocabulary))
        for image in others:
            if image.ndim != 3 or image.shape[1:] != labels.shape:
                raise UserError(
                    f"a control image has the shape {list(image.shape)} beside a label map of {list(labels.shape)}; "
                    "expected [channels, height, width] of the same size"
                )
        if photo is not None and photo.shape != (*labels.shape, 3):
            raise UserError(
                f"the photo of a label map is {photo.shape[1]} x {photo.shape[0]} pixels, the map {labels.shape[1]} x "
                f"{labels.shape[0]}; give the photo that it was drawn on"
            )
        factor = self.resize[draw(len(self.resize)) if len(self.resize) > 1 else 0]
        labels, *others = (resized(array, factor) for array in (labels, *others))
        if photo is not None and factor != 1:
            photo = np.asarray(Image.fromarray(photo).resize(labels.shape[::-1], Image.Resampling.LANCZOS))
        size = self.options.size
        box = centre_box(labels.shape, size) if label is None else class_box(labels, label, size, draw)
        crop = np.ascontiguousarray(cut(labels, box))
        left, top, right, bottom = box
        return Scene(
            labels=crop,
            prompt=self.prompts(crop, weather, domain),
            box=box,
            held=large_components(crop, self.options.held_area),
            seed=seed,
            sample_id=sample_id,
            others=tuple(image[:, top:bottom, left:right] for image in others),
            resize=factor,
            photo=None if photo is None else cut(photo, box),
        )


def resized(array: np.ndarray, factor: float) -> np.ndarray:
    """Label ids [H, W] or control images [C, H, W] at int(side x factor), at least one, by the nearest pixel.

    Nearest for control images too, so that depth or edges stay what the label map says.
    """
    if factor == 1:
        return array
    height, width = (max(1, int(side * factor)) for side in array.shape[-2:])
    planes = array.reshape(-1, *array.shape[-2:])
    large = [Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST) for plane in planes]
    return np.stack([np.asarray(plane) for plane in large]).reshape(*array.shape[:-2], height, width)


def check_resize(factors: Sequence[float]) -> None:
    """UserError unless label maps can be resized by each of the factors."""
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise UserError(f"the label maps are to be resized by {list(factors)}; expected factors above 0, such as 0.5")


def layout_stream(seed: int, sample_id: str) -> np.random.Generator:
    """The stream of crop and prompt."""
    return np.random.default_rng(int.from_bytes(_digest("layout", seed, sample_id), "little"))


def noise_stream(seed: int, sample_id: str) -> torch.Generator:
    """The stream of all noise of one sample, on the CPU: first pass, posterior, second pass, then step by step."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(_digest("noise", seed, sample_id)[:8], "little", signed=True))
    return generator


def _digest(use: str, seed: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"{use}\n{seed}\n{sample_id}".encode(errors="surrogateescape")).digest()


def control_images(scenes: Sequence[Scene], classes: int, rescale: float) -> list[torch.Tensor]:
    """Control images float32 [B, C, rH, rW] of a batch: the one-hot label maps, then the other controls.

    Enlarged by repeating the nearest pixel.
    """
    parts = [torch.stack([one_hot(scene.labels, classes) for scene in scenes])]
    for images in zip(*(scene.others for scene in scenes), strict=True):
        parts.append(torch.stack([torch.as_tensor(image).float() for image in images]))
    if rescale == 1:
        return parts
    size = tuple(int(side * rescale) for side in parts[0].shape[-2:])
    return [torch.nn.functional.interpolate(part, size=size, mode="nearest") for part in parts]


def sample_latents(backbone: DiffusionBackbone, images: Tensor, noise: Tensor) -> Tensor:
    """mean + std noise, scaled as the denoiser expects it.

    Args:
        images: [B, 3, H, W] in [0, 1].
        noise: standard normal [B, C, h, w].
    Returns:
        Latents [B, C, h, w], float32. An autoencoder without posterior (AutoencoderTiny) gives its code.
    """
    vae: Any = backbone.vae
    weight = next(vae.parameters())
    pixels = (images * 2 - 1).to(weight.device, weight.dtype).contiguous()
    coded = vae.encode(pixels)
    if not hasattr(coded, "latent_dist"):
        return backbone.encode(images.to(weight.device))
    drawn = coded.latent_dist.mean.float() + coded.latent_dist.std.float() * noise.to(weight.device)
    # `unscaled` is affine per channel: invert it from its values at 0 and 1
    zero = backbone.unscaled(torch.zeros_like(drawn[:1, :, :1, :1]))
    one = backbone.unscaled(torch.ones_like(drawn[:1, :, :1, :1]))
    return (drawn - zero) / (one - zero)
