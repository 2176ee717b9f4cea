"""Augmentation of pictures with sentences and with depth; images travel as BGR uint8, mmseg's convention."""

from __future__ import annotations

import os
from typing import Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from perception.errors import UserError
from perception.training.data.transforms import Sample, view_generator
from perception.training.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Squash(BaseTransform):
    """Resize to one size without keeping the aspect ratio: the image as Pillow does (bilinear, antialiased), the maps
    with Pillow's nearest neighbour."""

    def __init__(
        self,
        size: tuple[int, int],  # height, width [pixels]
        maps: bool = True,  # False: evaluate at the original size
    ) -> None:
        self.size = (size[0], size[1])
        self.maps = maps

    def transform(self, results: Sample) -> Sample:
        """Replace `img` and, with `maps`, what `seg_fields` names."""
        shape = (self.size[1], self.size[0])
        results["img"] = np.array(Image.fromarray(results["img"]).resize(shape, Image.Resampling.BILINEAR))
        for field in results.get("seg_fields", []) if self.maps else ():
            results[field] = np.array(Image.fromarray(results[field]).resize(shape, Image.Resampling.NEAREST))
        results["img_shape"] = self.size
        return results


@TRANSFORMS.register_module()
class CutDepth(BaseTransform):
    """Overwrite columns [l, l + w) of some images by their depth (Ishii and Yamashita 2021, as VPD does it).

    l = a W and w = max((1 - a) W b 0.75, 1) with a, b uniform in [0, 1), drawn from (seed, image, view).
    """

    def __init__(
        self,
        share: float = 0.25,  # of the images; the reference takes every fourth
        width: float = 0.75,  # largest share of the columns right of l
        value: Literal["wrapped", "scaled"] = "wrapped",  # millimetres modulo 256 (the reference), or 255 d / max_depth
        max_depth: float = 10.0,  # metres, of "scaled"
        seed: int = 1,
    ) -> None:
        self.share, self.width, self.value, self.max_depth, self.seed = share, width, value, max_depth, seed

    def transform(self, results: Sample) -> Sample:
        """Change `img` where the draw says so."""
        rng = view_generator(self.seed, results["img_path"], results.get("view", 0))
        if rng.random() >= self.share:
            return results
        columns, (a, b) = results["img"].shape[1], rng.random(2)
        left = int(a * columns)
        cut = slice(left, left + int(max((columns - a * columns) * b * self.width, 1)))
        depth = results["gt_depth_map"][:, cut, None]
        wrapped = np.rint(depth * 1000).astype(np.int64) % 256
        scaled = np.clip(255 * depth / self.max_depth, 0, 255)
        results["img"] = results["img"].copy()
        results["img"][:, cut] = (wrapped if self.value == "wrapped" else scaled).astype(np.uint8)
        return results


@TRANSFORMS.register_module()
class DepthAugmentation(BaseTransform):
    """VPD's training augmentation by albumentations, drawn from (seed, image, view): mirror, crop, colours."""

    def __init__(
        self,
        size: tuple[int, int] | None = None,  # height, width of the crop [pixels]; None: no crop
        flip: float = 0.5,  # probability of mirroring
        colour: float = 0.5,  # probability of each of brightness and contrast, gamma, hue and saturation
        seed: int = 0,
    ) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the internet for newer versions
        import albumentations as album  # takes seconds

        steps = [
            album.HorizontalFlip(p=flip),
            *([album.RandomCrop(*size)] if size else []),
            album.RandomBrightnessContrast(p=colour),  # +-0.2
            album.RandomGamma(gamma_limit=(80, 120), p=colour),
            album.HueSaturationValue(20, 30, 20, p=colour),
        ]
        self.compose = album.Compose(steps)
        self.size, self.seed = size, seed

    def transform(self, results: Sample) -> Sample:
        """Replace `img` and `gt_depth_map`. UserError: an image that is smaller than the crop."""
        (height, width), wanted = results["img"].shape[:2], self.size or (0, 0)
        if height < wanted[0] or width < wanted[1]:
            raise UserError(
                f"{results['img_path']} is {width} x {height} pixels, too small for a crop of {wanted[1]} x "
                f"{wanted[0]}; set a smaller `size` of DepthAugmentation"
            )
        rng = view_generator(self.seed, results["img_path"], results.get("view", 0))
        self.compose.set_random_seed(int(rng.integers(2**31)))
        done = self.compose(image=cv2.cvtColor(results["img"], cv2.COLOR_BGR2RGB), mask=results["gt_depth_map"])
        results["img"], results["gt_depth_map"] = cv2.cvtColor(done["image"], cv2.COLOR_RGB2BGR), done["mask"]
        results["img_shape"] = done["mask"].shape
        return results
