"""Training items of both stages: crops of source images, with label map and caption for the control network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from perception.data.images import image_tensor, read_image
from perception.data.segmentation_folder import LabelledImage, check_labels, read_labels
from perception.errors import UserError
from perception.generation.crops import Size, below, centre_box, class_box, cut, random_box
from perception.generation.labels import CITYSCAPES, IGNORE, Box, Vocabulary
from perception.generation.prompts import names_in
from perception.generation.sampling import RareClassSampler
from perception.generation.scenes import layout_stream

Cut = Literal["rare", "random", "centre"]
SOURCE_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of stage A


@dataclass(frozen=True)
class ControlItem:
    """One training pair of the control network."""

    image: Tensor  # float32 [3, H, W], RGB in [0, 1]
    labels: np.ndarray  # uint8 [H, W], 255 ignored
    text: str  # names of the classes in the crop


def control_item(image: Image.Image, labels: np.ndarray, box: Box, names: Sequence[str]) -> ControlItem:
    """The pair inside a box."""
    crop = np.ascontiguousarray(cut(labels, box))
    return ControlItem(image_tensor(image.crop(box)), crop, names_in(crop, names))


def resized_pair(image: Image.Image, labels: np.ndarray, ratio: float) -> tuple[Image.Image, np.ndarray]:
    """Image (bilinear) and label map (nearest) at int(width * ratio) x int(height * ratio) pixels."""
    size = (int(image.width * ratio), int(image.height * ratio))
    if size == image.size:
        return image, labels
    smaller = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.BILINEAR), np.asarray(smaller)


class ControlDataset(Dataset):
    """Crops for stage B; an item is a function of (seed, index) alone.

    With rare class sampling the index only names a random stream: `set_epoch` gives every epoch others.

    Raises:
        UserError: for no images, or a sampler whose files are not among them.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        vocabulary: Vocabulary = CITYSCAPES,
        size: Size = (512, 512),
        crop: Cut = "rare",
        sampler: RareClassSampler | None = None,  # of label file names, for "rare"
        ratios: Sequence[float] = (1.0,),  # of a resize before the crop, one drawn per item
        seed: int = 0,
    ) -> None:
        if not images or (crop == "rare") != (sampler is not None):
            raise UserError(
                f"{len(images)} images were given with crop={crop!r} and sampler={sampler}; expected images, "
                "and a sampler exactly for crop='rare'"
            )
        self.images, self.vocabulary, self.size, self.crop = list(images), vocabulary, size, crop
        self.sampler, self.ratios, self.seed, self.epoch = sampler, tuple(ratios), seed, 0
        self._by_name = {pair.labels.name: pair for pair in images}
        drawn = {Path(f).name for files in (sampler.files.values() if sampler else ()) for f in files}
        if unknown := sorted(drawn - set(self._by_name)):
            raise UserError(
                f"the class statistics name {unknown[0]}, which is not among the label maps; count them anew"
            )

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> ControlItem:
        rng = layout_stream(self.seed, f"control/{self.epoch}/{index}")
        pair, label = self.images[index], None
        if self.sampler is not None:
            file, label = self.sampler(rng)
            pair = self._by_name[Path(file).name]
        image, labels = read_image(pair.image), read_labels(pair.labels)
        check_labels(labels, (image.height, image.width), len(self.vocabulary), IGNORE, str(pair.labels))
        image, labels = resized_pair(image, labels, self.ratios[int(rng.integers(len(self.ratios)))])
        return control_item(image, labels, self._box(labels, label, rng), self.vocabulary.names)

    def _box(self, labels: np.ndarray, label: int | None, rng: np.random.Generator) -> Box:
        if label is not None:
            return class_box(labels, label, self.size, below(rng), tries=1)
        return (
            random_box(labels.shape, self.size, below(rng))
            if self.crop == "random"
            else centre_box(labels.shape, self.size)
        )


class SourceDataset(Dataset):
    """Random crops of resized images for stage A: float32 [3, H, W] in [0, 1]; a function of (seed, epoch, index)."""

    def __init__(
        self,
        files: Sequence[Path],
        size: Size = (512, 512),
        ratios: Sequence[float] = SOURCE_RATIOS,
        seed: int = 0,
    ) -> None:
        if not files:
            raise UserError("no source image was given; check the folder")
        self.files, self.size, self.ratios, self.seed, self.epoch = list(files), size, tuple(ratios), seed, 0

    def __len__(self) -> int:
        return len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Tensor:
        """Raises UserError for an image that is smaller than the crop at a drawn ratio."""
        rng = layout_stream(self.seed, f"source/{self.epoch}/{index}")
        image = read_image(self.files[index])
        ratio = self.ratios[int(rng.integers(len(self.ratios)))]
        image = image.resize((int(image.width * ratio), int(image.height * ratio)), Image.Resampling.BILINEAR)
        return image_tensor(image.crop(random_box((image.height, image.width), self.size, below(rng))))
