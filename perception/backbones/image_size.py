"""The size of images that a backbone takes."""

from __future__ import annotations

from perception.backbones.backbone import DiffusionBackbone
from perception.errors import UserError


def image_size(backbone: DiffusionBackbone, size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width in pixels, checked; by default those of the images that the denoiser was trained on."""
    stride = backbone.latent_stride
    if size is None:
        if backbone.training_size is None:
            raise UserError(f"{backbone.name} does not say which size it was trained at; add --size, in pixels.")
        height, width = (side * stride for side in backbone.training_size)
    else:
        height, width = (size, size) if isinstance(size, int) else size
    if height < stride or width < stride or height % stride or width % stride:
        raise UserError(
            f"size {height}x{width} does not fit {backbone.name}: both sides must be multiples of {stride}."
        )
    backbone.check_size(height // stride, width // stride)
    return height, width
