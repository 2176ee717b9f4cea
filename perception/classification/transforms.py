"""Transforms a PIL image of any mode and size to the classifier's square (reference: resize, crop, then RGB)."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from perception.checks import check_picture
from perception.errors import UserError

INTERPOLATIONS = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    "lanczos": InterpolationMode.LANCZOS,
}


class ClassifierTransform:
    """Resize until the target is covered, crop the centre, convert to RGB; [3, H, W] float32 in [0, 1] out.

    For a square target that is "shorter side to S": the longer side is truncated, `int(S * long / short)`, and the
    crop offset is Python's `round((h - S) / 2)`, both torchvision's rules. Small images are enlarged; there is no flip
    and no second crop.

    Palette and 1-bit images are converted AFTER the resize, as in the reference, and PIL resizes those with
    nearest neighbour whatever the filter. `convert_first` converts before, which is what a person would expect.

    Raises UserError for a size below 1 or an unknown interpolation.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 512,  # pixels of the output: side of a square, or height and width
        interpolation: str = "bicubic",  # one of INTERPOLATIONS, always with antialiasing
        convert_first: bool = False,  # to RGB before the resize instead of after it
        border: int = 0,  # pixels cut from each side first (ObjectNet's red frame: 2)
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        if min(self.size) < 1 or border < 0:
            raise UserError(
                f"size {size} and border {border} are no image geometry; give a size >= 1 and a border >= 0"
            )
        if interpolation not in INTERPOLATIONS:
            raise UserError(f"unknown interpolation {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
        self.interpolation = interpolation
        self.convert_first = convert_first
        self.border = border

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform one image. Raises UserError when the border leaves nothing of it."""
        image = trimmed(image, self.border)
        if self.convert_first:
            image = image.convert("RGB")
        image = F.resize(image, self._covering(image), INTERPOLATIONS[self.interpolation])
        image = F.center_crop(image, list(self.size))
        return F.to_tensor(image.convert("RGB"))  # [3, H, W]

    def _covering(self, image: Image.Image) -> list[int]:
        """Height and width of the smallest image of this aspect ratio that covers the target."""
        height, width = self.size
        if height * image.width >= width * image.height:  # relatively wider than the target
            return [height, int(height * image.width / image.height)]
        return [int(width * image.height / image.width), width]


CROPS = ("resize", "adm")
"""Ways to the square: ClassifierTransform, AdmTransform."""


class AdmTransform:
    """Halve, scale and crop as guided-diffusion and DiT do; [3, S, S] float32 in [0, 1] out.

    While the shorter side is 2 S or more the image is halved with a box filter (sides `// 2`); then it is scaled with
    a bicubic filter to `round(side * S / shorter)`, and the centre is cut at offsets `(side - S) // 2` (Dhariwal &
    Nichol 2021, released code). Images of other modes are converted to RGB first.

    Raises UserError for a size below 1.
    """

    def __init__(
        self,
        size: int = 256,  # pixels of the square's side
        border: int = 0,  # pixels cut from each side first
    ) -> None:
        if size < 1 or border < 0:
            raise UserError(
                f"size {size} and border {border} are no image geometry; give a size >= 1 and a border >= 0"
            )
        self.size = size
        self.border = border

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform one image. Raises UserError when the border leaves nothing of it."""
        image = trimmed(image, self.border).convert("RGB")
        while min(image.size) >= 2 * self.size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = self.size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return F.to_tensor(image.crop((left, top, left + self.size, top + self.size)))  # [3, S, S]


def trimmed(image: Image.Image, border: int) -> Image.Image:
    """The image without `border` pixels on each side. Raises UserError when that leaves nothing."""
    check_picture(image)
    if not border:
        return image
    width, height = image.size
    if min(width, height) <= 2 * border:
        raise UserError(f"a border of {border} px leaves nothing of a {width} x {height} image; use a smaller one")
    return image.crop((border, border, width - border, height - border))


def square_transform(
    crop: str,  # one of CROPS
    size: tuple[int, int],  # height and width in pixels
    interpolation: str = "bicubic",
    border: int = 0,  # pixels cut from each side first
) -> ClassifierTransform | AdmTransform:
    """The transform of that name.

    Raises UserError for an unknown one, and for "adm" with a size that is no square or another filter than its own.
    """
    if crop not in CROPS:
        raise UserError(f"unknown crop {crop!r}; choose one of {', '.join(CROPS)}")
    if crop == "resize":
        return ClassifierTransform(size, interpolation, border=border)
    if size[0] != size[1] or interpolation != "bicubic":
        raise UserError(
            f"the crop 'adm' makes squares with filters of its own, not {size[0]}x{size[1]} with {interpolation}; "
            "leave out --interpolation and give one side, or use --crop resize"
        )
    return AdmTransform(size[0], border)
