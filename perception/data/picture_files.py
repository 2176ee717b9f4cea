"""The picture formats that are opened: none that starts a program or holds more than pixels."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL import Image

from perception.data.inputs import read_input
from perception.errors import UserError

PICTURE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names. JPEG opens the MPO files of phones too, PPM is PBM, PGM, PPM and PNM."""
LABEL_FORMATS = ("BMP", "PNG", "TIFF")
"""Those of label and depth maps: a pixel is read as it was written."""
MOST_PIXELS = 178_956_970
"""Of an image: Pillow's own limit when it opens a file."""
DAMAGED = (  # what Pillow raises, its AVIF decoder a RuntimeError
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def open_picture(
    path: str | Path,
    what: str = "",  # stands before the name in sentences, such as "the label map "
    formats: tuple[str, ...] = PICTURE_FORMATS,
) -> Image.Image:
    """Open a picture file in one of the formats, whatever its suffix; its pixels are decoded at first use.

    Raises:
        UserError: as `read_input`, and where it is empty.
        PIL.UnidentifiedImageError: it has another format.
        Exception: one of DAMAGED, here or when pixels are decoded.
    """
    content = read_input(path, what, "an image file")
    if not content:
        raise UserError(f"{what}{path} is empty (0 bytes); replace the file.")
    return Image.open(io.BytesIO(content), formats=formats)
