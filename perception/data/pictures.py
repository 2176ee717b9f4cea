"""Results as pictures: PNG files, label maps, attention heat maps, depth in colours."""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

MILLIMETRES = 1000.0  # per metre: the unit of 16-bit depth pictures, as of NYUv2
_DISTINCT = ((230, 60, 60), (60, 130, 230), (60, 190, 90), (240, 190, 40), (170, 80, 220), (40, 200, 210))


def png_bytes(
    pixels: np.ndarray,  # uint8 [H, W] or [H, W, 3] (RGB), or uint16 [H, W]
    palette: Sequence[Sequence[int]] | None = None,  # RGB by value of uint8 [H, W]: a palette picture
) -> bytes:
    """The bytes of a PNG file."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if palette is not None:
        table = np.zeros((256, 3), np.uint8)  # complete: Pillow cuts values to the bits that fewer colours need
        table[: len(palette)] = palette
        image.putpalette(table.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def colour_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Class ids uint8 [H, W] to colours uint8 [H, W, 3]; ids outside the palette (such as 255) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[labels]


def overlay_labels(
    image: np.ndarray,  # uint8 [H, W, 3], RGB
    labels: np.ndarray,  # uint8 [H, W]
    palette: Sequence[Sequence[int]],
    opacity: float = 0.6,  # of the colours, in [0, 1]
) -> np.ndarray:
    """The colours of a label map over its image, uint8 [H, W, 3]; pixels without a colour show the image."""
    coloured = labels[..., None] < len(palette)  # [H, W, 1]
    mixed = (1 - opacity) * image + opacity * colour_labels(labels, palette)
    return np.where(coloured, np.rint(mixed).astype(np.uint8), image)


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Values [H, W] in [0, 1] to colours uint8 [H, W, 3]: Turbo (Mikhailov 2019), from blue to red."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def overlay_heat(
    image: np.ndarray,  # uint8 [H, W, 3], RGB
    values: np.ndarray,  # float [h, w], any range and size; its least value becomes blue, its largest red
    opacity: float = 0.6,  # of the colours, in [0, 1]
) -> np.ndarray:
    """A map over its image, uint8 [H, W, 3]; resized bilinearly."""
    height, width = image.shape[:2]
    full = cv2.resize(np.asarray(values, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = float(full.min()), float(full.max())
    scaled = (full - low) / (high - low) if high > low else np.zeros_like(full)
    return np.rint((1 - opacity) * image + opacity * heat_colours(scaled)).astype(np.uint8)


def depth_colours(metres: np.ndarray) -> np.ndarray:
    """Depth [H, W] in metres to colours uint8 [H, W, 3]: nearest red, farthest blue, linear in 1 / depth."""
    nearness = 1 / np.maximum(metres, 1e-3)
    low, high = float(nearness.min()), float(nearness.max())
    return heat_colours((nearness - low) / (high - low) if high > low else np.zeros_like(nearness))


def depth_millimetres(metres: np.ndarray) -> np.ndarray:
    """Depth [H, W] in metres to uint16 [H, W] in millimetres; beyond 65.535 m it saturates."""
    return np.rint(np.clip(metres * MILLIMETRES, 0, 65535)).astype(np.uint16)


def distinct_colour(index: int) -> tuple[int, int, int]:
    """One of six strong RGB colours, in turn."""
    return _DISTINCT[index % len(_DISTINCT)]
