"""Colour augmentation by albumentations: the baseline that generated training data must beat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from perception.training.data.transforms import Sample
from perception.training.registry import TRANSFORMS


@TRANSFORMS.register_module()
class StrongColours(BaseTransform):
    """Colour jitter, gamma, colour cast, fog-like contrast loss, blur and noise; the label map stays.

    Brightness between a quarter and almost twice, so that some images are as dark as night. Where in an epoch an image
    comes decides its draw, as with every random transform of mmseg.
    """

    def __init__(
        self,
        strength: float = 1.0,  # 0: nothing changes, 1: as above
        probability: float = 0.8,  # of the colour jitter; that of the others is half of it
    ) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the internet for newer versions
        import albumentations as album  # takes seconds

        self.compose = album.Compose(_steps(album, strength, probability))

    def transform(self, results: Sample) -> Sample:
        """Replace `img` (BGR uint8)."""
        self.compose.set_random_seed(int(np.random.randint(2**31)))  # mmengine seeds numpy in every worker
        rgb = cv2.cvtColor(results["img"], cv2.COLOR_BGR2RGB)
        results["img"] = cv2.cvtColor(self.compose(image=rgb)["image"], cv2.COLOR_RGB2BGR)
        return results


def _steps(album: Any, strength: float, probability: float) -> Sequence[Any]:
    wide, other = 0.75 * strength, probability / 2
    jitter = album.ColorJitter(
        brightness=(1 - wide, 1 + wide),
        contrast=(1 - wide, 1 + wide),
        saturation=(1 - wide, 1 + wide),
        hue=(-0.1 * strength, 0.1 * strength),
        p=probability,
    )
    gamma = (int(100 - 50 * strength), int(100 + 100 * strength))
    cast = round(30 * strength)
    return [
        jitter,
        album.RandomGamma(gamma_limit=gamma, p=other),
        album.RGBShift(cast, cast, cast, p=other),
        album.GaussianBlur(blur_limit=(3, 5), p=other / 2 if strength else 0),
        album.GaussNoise(std_range=(0.0, 0.1 * strength), p=other),
    ]
