"""One tested sample as panels side by side: the image, the prediction, the ground truth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmseg.structures import SegDataSample

from perception.data.pictures import distinct_colour, heat_colours, overlay_labels


def panels(
    inputs: np.ndarray,  # BGR uint8 [3, H, W], what the network got
    sample: SegDataSample,  # with prediction and, if there is one, ground truth
    palette: Sequence[Sequence[int]] | None,  # RGB by class id; None: of a referring mask
    opacity: float,
) -> np.ndarray:
    """RGB uint8 [H, 2 W or 3 W, 3] at the size of the prediction: labels and masks over the image, depth in colours."""
    kind = "depth_map" if "pred_depth_map" in sample else "sem_seg"
    found = [
        np.asarray(sample.get(f"{who}_{kind}").data[0].cpu()) for who in ("pred", "gt") if f"{who}_{kind}" in sample
    ]
    image = cv2.resize(np.ascontiguousarray(inputs.transpose(1, 2, 0)[..., ::-1]), found[0].shape[::-1])
    if kind == "depth_map":
        return np.concatenate([image, *_depths(found)], axis=1)
    colours = palette or [distinct_colour(0)]
    maps = [value.astype(np.uint8) if palette else 1 - value.astype(np.uint8) for value in found]  # background: no id
    return np.concatenate([image, *(overlay_labels(image, value, colours, opacity) for value in maps)], axis=1)


def picture_name(sample: Any) -> str:
    """<name, or stem of the file>.png, for a sentence <stem>_<sentence>.png."""
    words = re.sub(r"\W+", "-", str(sample.get("sentence", ""))).strip("-")
    return (sample.get("name") or Path(sample.img_path).stem) + (f"_{words[:60]}" if words else "") + ".png"


def _depths(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Colours of 1 / depth on the scale of the last map (the ground truth); pixels without a measurement are black."""
    measured = maps[-1][maps[-1] > 0]
    nearest, farthest = (float(measured.min()), float(measured.max())) if measured.size else (1.0, 2.0)
    low, high = 1 / farthest, max(1 / nearest, 1 / farthest + 1e-6)
    shown = [heat_colours((1 / np.maximum(depth, 1e-3) - low) / (high - low)) for depth in maps]
    return [
        np.where(depth[..., None] > 0, colours, 0).astype(np.uint8) for depth, colours in zip(maps, shown, strict=True)
    ]
