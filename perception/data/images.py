"""Image files to tensors: every kind of file that people really have, or one sentence why not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from perception.checks import check_picture
from perception.data.picture_files import DAMAGED, MOST_PIXELS, PICTURE_FORMATS, open_picture
from perception.errors import UserError

MIN_SIDE = 8  # pixels: one latent cell of the SD family
_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow keeps it
_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    EXIF orientation is applied; alpha (also of palettes) is composited on white; 16-bit grey is divided by 257;
    palette, grey, CMYK, YCbCr and LAB are converted; of an animation the first frame is taken.

    Raises:
        UserError: the file is missing, unreadable, empty, truncated, no regular file, in none
            of PICTURE_FORMATS, or smaller than 8 pixels on a side.
    """
    path = Path(path)
    try:
        with open_picture(path) as file:
            file.load()
            image = _to_rgb(_upright(file), path)
    except UnidentifiedImageError as error:
        known = ", ".join(PICTURE_FORMATS)
        raise UserError(
            f"{path} is not an image that Pillow can read as {known}; convert it to PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has too many pixels ({error}); scale it down first.") from error
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is corrupt or truncated ({error}); replace the file.") from error
    if min(image.size) < MIN_SIDE:
        raise UserError(
            f"{path} is {image.width} x {image.height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed."
        )
    return image


def image_tensor(
    image: Image.Image,
    size: int | tuple[int, int] | None = None,  # int: a square of that side; (height, width); None: as it is
    *,
    fit: Literal["crop", "squash"] = "crop",  # keep the aspect ratio and cut the centre, or distort
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic",
) -> torch.Tensor:
    """An RGB image as float32 [3, H, W] in [0, 1].

    "crop" scales until the image covers the target (torchvision's Resize, truncating the longer side), then cuts its
    centre (CenterCrop); filters are Pillow's, antialiased.

    Raises:
        UserError: the image is so elongated that it would be scaled to more than 179 million pixels.
    """
    check_picture(image)
    if size is not None:
        image = _resized(image, (size, size) if isinstance(size, int) else size, fit, _INTERPOLATION[interpolation])
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))  # [H, W, 3]
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


def nearest_size(height: int, width: int, multiple: int = 64) -> tuple[int, int]:
    """The nearest sides that are multiples of `multiple` pixels, each at least one multiple.

    64: a VAE of factor 8 and three halvings of the denoiser.
    """
    return max(multiple, round(height / multiple) * multiple), max(multiple, round(width / multiple) * multiple)


def content_hash(content: np.ndarray | torch.Tensor | bytes) -> str:
    """SHA-256 (hex) of dtype, shape and bytes; of `bytes` alone, the plain digest of a file with this content."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    tensor = torch.from_numpy(np.ascontiguousarray(content)) if isinstance(content, np.ndarray) else content
    tensor = tensor.detach().cpu().contiguous()
    header = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode()
    flat = tensor.reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(header + flat.tobytes()).hexdigest()


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the metadata says, and without it: Pillow would write it anew, and cannot where an entry is odd."""
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    if turn == 1:
        return image
    bare = image.copy()
    for key in _METADATA:
        bare.info.pop(key, None)
    bare.getexif()[ExifTags.Base.Orientation] = turn
    return ImageOps.exif_transpose(bare)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in _16_BIT:
        return _from_16_bit(image, path).convert("RGB")
    if image.mode == "F":
        raise UserError(f"{path} holds 32-bit floats of unknown range; convert it to 8 or 16 bits per channel.")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{path} holds integers outside 0..65535; convert it to 8 or 16 bits per channel.")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257, rounded to nearest


def _resized(image: Image.Image, size: tuple[int, int], fit: str, resample: Image.Resampling) -> Image.Image:
    height, width = size
    if fit == "squash":
        return image.resize((width, height), resample)
    if height * image.width >= width * image.height:  # relatively wider than the target
        covering = (int(height * image.width / image.height), height)
    else:
        covering = (width, int(width * image.height / image.width))
    if covering[0] * covering[1] > MOST_PIXELS:
        raise UserError(
            f"an image of {image.width} x {image.height} pixels, scaled to cover {width} x {height}, would have "
            f"{covering[0]} x {covering[1]}; cut it first, or squash it instead of cropping."
        )
    if covering != image.size:
        image = image.resize(covering, resample)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)  # half to even, as CenterCrop
    return image.crop((left, top, left + width, top + height))
