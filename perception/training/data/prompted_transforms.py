"""Transforms for pictures with sentences and pictures with depth; images travel as BGR uint8, mmseg's convention."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from perception.data import nyu
from perception.data.images import read_image
from perception.errors import UserError
from perception.training.data.rendering import scene_arrays
from perception.training.data.transforms import Sample, view_generator, with_image, with_labels
from perception.training.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RenderExpression(BaseTransform):
    """`scene` of the miniature world -> `img`, `sentence` and its mask in `gt_seg_map` (0, 1).

    Which expression: number `expression` of the sample, or, without it, that of its view: views go through all
    expressions of a scene, in an order drawn from (seed, scene), and then begin again.
    """

    def __init__(
        self,
        cache: str | None = None,  # folder of rendered scenes; the second epoch reads them
        seed: int = 0,  # of the order
    ) -> None:
        self.cache = Path(cache) if cache else None
        self.seed = seed

    def transform(self, results: Sample) -> Sample:
        """Add image, sentence and mask (uint8)."""
        arrays = scene_arrays(results["scene"], "expressions", self.cache)
        if not len(arrays["texts"]):
            raise UserError(f"{results['img_path']} shows nothing that could be referred to; use larger scenes")
        number = _chosen(results, len(arrays["texts"]), self.seed, results["img_path"])
        results["sentence"] = str(arrays["texts"][number])
        return with_labels(with_image(results, arrays["image"]), arrays["masks"][number].astype(np.uint8))


@TRANSFORMS.register_module()
class ReadReference(BaseTransform):
    """`reference` (`perception.data.refcoco.Reference`) -> `img`, `sentence` and its mask in `gt_seg_map` (0, 1).

    Which sentence: as in `RenderExpression`.
    """

    def __init__(
        self,
        seed: int = 0,  # of the order
    ) -> None:
        self.seed = seed

    def transform(self, results: Sample) -> Sample:
        """Add image, sentence and mask (uint8). UserError: an image that is unreadable or of another size."""
        reference = results["reference"]
        image = np.asarray(read_image(reference.image))
        if image.shape[:2] != reference.size:
            (height, width), (rows, columns) = reference.size, image.shape[:2]
            raise UserError(
                f"{reference.image} is {columns} x {rows} pixels, but instances.json says {width} x {height}; take the "
                "photograph of COCO train2014"
            )
        number = _chosen(results, len(reference.sentences), self.seed, str(reference.ref_id))
        results["sentence"] = reference.sentences[number]
        return with_labels(with_image(results, image), reference.mask.astype(np.uint8))


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
class RenderDepth(BaseTransform):
    """`scene` of the miniature world -> `img` and `gt_depth_map`."""

    def __init__(
        self,
        cache: str | None = None,  # folder of rendered scenes; the second epoch reads them
    ) -> None:
        self.cache = Path(cache) if cache else None

    def transform(self, results: Sample) -> Sample:
        """Add the image and the depth (float32 [H, W], metres, 0 = no measurement)."""
        arrays = scene_arrays(results["scene"], "depth", self.cache)
        return with_labels(with_image(results, arrays["image"]), arrays["depth"], "gt_depth_map")


@TRANSFORMS.register_module()
class ReadDepth(BaseTransform):
    """`img_path` and `depth_path` (16-bit PNG) -> `img` and `gt_depth_map`."""

    def __init__(
        self,
        scale: float = nyu.MILLIMETRES,  # counts per metre
    ) -> None:
        self.scale = scale

    def transform(self, results: Sample) -> Sample:
        """Add image and depth [metres]. UserError: a bad file, or maps of different sizes."""
        image = np.asarray(read_image(results["img_path"]))
        depth = nyu.read_depth(results["depth_path"], self.scale)
        nyu.check_depth(depth, image.shape[:2], str(results["depth_path"]))
        return with_labels(with_image(results, image), depth, "gt_depth_map")


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


def _chosen(results: Sample, count: int, seed: int, name: str) -> int:
    """Number of the sentence of a sample, of `count`; `name` identifies what they belong to."""
    if "expression" in results:
        return int(results["expression"])
    return int(view_generator(seed, name, 0).permutation(count)[results.get("view", 0) % count])
