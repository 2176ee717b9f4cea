"""Images in, segmentations out: semantic label maps, and masks of what a sentence refers to.

labels = SemanticPredictor(network)(image).labels           # PIL image -> uint8 [H, W]
(found,) = ReferringPredictor(network)(image, ["the man in red"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from perception.checks import check_picture
from perception.conditioning import ClassNames, Sentences
from perception.data.images import image_tensor, nearest_size
from perception.encoders.attention_maps import check_maps, token_maps, word_maps
from perception.encoders.vpd.encoder import VPD
from perception.errors import UserError
from perception.segmentation.referring import ReferringNet

Size = tuple[int, int]  # height, width in pixels
_MOST_VALUES = 2**25  # of logits at the size of the image, at a time: 128 MiB in float32


class SemanticNetwork(Protocol):
    """What the predictor needs of a trained segmentor, such as SegmentationModel of perception.jobs."""

    classes: list[str]  # by class id
    image_size: Size | None  # it was trained at; None: any
    tested_side: int | None  # shorter side of the pictures over which it slides windows, in pixels; None: no windows

    def __call__(self, images: Tensor, /) -> Tensor:
        """Logits [B, classes, H, W] of RGB images [B, 3, H, W] in [0, 1]."""


@dataclass(frozen=True)
class SemanticResult:
    """The classes of one image."""

    labels: np.ndarray  # uint8 [H, W], class ids, at the image's own size
    areas: dict[
        str, float
    ]  # class name -> share of the pixels, for classes that are there, in order of their ids; nan when
    # the logits are not finite (an overflow of half precision)


class SemanticPredictor:
    """A semantic segmentor for images of any size.

    Raises:
        UserError: more classes than a label picture can hold, or a size the network cannot take.
    """

    def __init__(
        self,
        network: SemanticNetwork,  # in eval mode
        size: Size | None = None,  # the network sees; None: as trained or tested, see `network_input`
        device: torch.device | str = "cpu",  # where the network is
        vpd: VPD | None = None,  # the network's backbone where it is one: for `maps`
    ) -> None:
        if len(network.classes) > 255:
            raise UserError(f"the model has {len(network.classes)} classes; a label picture holds at most 255")
        self.network = network
        self.classes = list(network.classes)
        self.size = checked_size(size) or network.image_size
        self.device = torch.device(device)
        self.vpd = vpd

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> SemanticResult:
        """The class of every pixel of one image."""
        logits = self.network(self._pixels(image)).float()
        labels = largest(logits[0], (image.height, image.width))
        return SemanticResult(labels, self._areas(labels) if torch.isfinite(logits).all() else {"": float("nan")})

    @torch.no_grad()
    def maps(self, image: Image.Image) -> dict[str, np.ndarray]:
        """Class name -> attention map float32 [h, w] in [0, 1], at the finest stride that has maps.

        Raises:
            UserError: the network is no VPD that is told its class names.
        """
        vpd = check_maps(self.vpd, ClassNames)
        maps = token_maps(vpd, vpd(self._pixels(image)))[0].cpu().numpy()
        return dict(zip(self.classes, maps, strict=True))

    def _pixels(self, image: Image.Image) -> Tensor:
        return network_input(image, self.size, self.network.tested_side).to(self.device)

    def _areas(self, labels: np.ndarray) -> dict[str, float]:
        counts = np.bincount(labels.reshape(-1), minlength=len(self.classes)).tolist()
        return {name: count / labels.size for name, count in zip(self.classes, counts, strict=True) if count}


@dataclass(frozen=True)
class ReferringResult:
    """What one sentence refers to in one image."""

    text: str
    mask: np.ndarray  # bool [H, W], at the image's own size
    area: float  # share of the pixels
    score: float | None  # mean probability over the mask, in (0.5, 1]; None: nothing was found; nan: an overflow


class ReferringPredictor:
    """A referring network for images of any size, which are encoded once for all sentences.

    Raises:
        UserError: a size the network cannot take, and what loading a folder raises.
    """

    def __init__(
        self,
        model: ReferringNet | str | Path,  # or its folder
        size: Size | None = None,  # the network sees; None: that of its training, else the image's nearest
        device: torch.device | str = "cpu",
        rows: int = 8,  # sentences per denoiser call
    ) -> None:
        network = model if isinstance(model, ReferringNet) else ReferringNet.from_pretrained(model)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.size = checked_size(size) or self.network.image_size
        self.vpd = self.network.encoder if isinstance(self.network.encoder, VPD) else None  # None: a control
        self.rows = rows

    def check(self, sentences: Sequence[str]) -> None:
        """Raises UserError for an empty sentence, and for one with more tokens than the network takes."""
        conditioning: Any = self.network.encoder.conditioning
        conditioning(list(sentences))

    @torch.no_grad()
    def __call__(self, image: Image.Image, sentences: Sequence[str]) -> list[ReferringResult]:
        """One result per sentence. Raises UserError as `check` does."""
        pixels, size = network_input(image, self.size).to(self.device), (image.height, image.width)
        latent = None if self.vpd is None else self.vpd.encode(pixels)
        found = []
        for start in range(0, len(sentences), self.rows):
            told = list(sentences[start : start + self.rows])
            if latent is None:
                logits = self.network.decode(self.network.encoder(pixels.expand(len(told), -1, -1, -1), told), size)
            else:
                logits = self.network.refer(latent, told, size=size, rows=self.rows)
            found += [_referred(text, row[1] - row[0]) for text, row in zip(told, logits, strict=True)]
        return found

    @torch.no_grad()
    def maps(self, image: Image.Image, sentence: str) -> list[tuple[str, np.ndarray]]:
        """(word, attention map float32 [h, w] in [0, 1]) in the order of the sentence.

        Raises:
            UserError: the network reads no attention maps.
        """
        vpd = check_maps(self.vpd, Sentences)
        maps = token_maps(vpd, vpd(network_input(image, self.size).to(self.device), [sentence]))[0]
        return [(word, value.cpu().numpy()) for word, value in word_maps(vpd, maps, sentence)]


def _referred(text: str, margin: Tensor) -> ReferringResult:
    """The result of logits foreground - background [H, W]: p = sigmoid(margin) above 1/2."""
    mask = margin > 0
    count, finite = int(mask.sum()), bool(torch.isfinite(margin).all())
    score = float(margin[mask].sigmoid().mean()) if count else None
    return ReferringResult(text, mask.cpu().numpy(), count / mask.numel(), score if finite else float("nan"))


def network_input(image: Image.Image, size: Size | None, shorter_side: int | None = None) -> Tensor:
    """One RGB image as [1, 3, h, w] in [0, 1], at the multiples of 64 pixels nearest to its sides.

    Args:
        image: any mode, any size.
        size: height and width to which it is distorted instead.
        shorter_side: without a `size`, what the image is scaled to first, in pixels; None: it is not scaled.
    """
    check_picture(image)
    scale = shorter_side / min(image.size) if shorter_side else 1
    height, width = size or nearest_size(round(image.height * scale), round(image.width * scale))
    return image_tensor(image.convert("RGB"), (height, width), fit="squash", interpolation="bilinear")[None]


def checked_size(size: Size | None) -> Size | None:
    """The size itself. Raises UserError unless both sides are positive multiples of 64 pixels."""
    if size is not None and (min(size) < 64 or size[0] % 64 or size[1] % 64):
        nearest = "x".join(map(str, nearest_size(*size)))
        raise UserError(f"size {size[0]}x{size[1]} does not fit: both sides must be multiples of 64; try {nearest}.")
    return size


def largest(logits: Tensor, size: Size) -> np.ndarray:
    """argmax over the classes of logits [K, h, w] resized bilinearly to `size`: uint8 [H, W].

    Some classes at a time: 150 classes of a photograph of 12 megapixels are 7 GB.
    """
    step = max(1, _MOST_VALUES // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for first in range(0, len(logits), step):
        part = F.interpolate(logits[None, first : first + step], size, mode="bilinear")[0]
        value, index = part.max(dim=0)
        better = value > best
        best, labels = torch.where(better, value, best), torch.where(better, (index + first).to(torch.uint8), labels)
    return labels.cpu().numpy()
