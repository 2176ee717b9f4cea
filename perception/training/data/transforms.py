"""mmseg transforms: robust loading, label checks, and views that are the same in every epoch.

Images travel as BGR uint8 [H, W, 3], mmseg's convention, so that its own transforms can stand in between.
"""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import RandomCrop

from perception.data.images import read_image
from perception.data.segmentation_folder import check_labels, read_labels, train_ids
from perception.training.registry import TRANSFORMS

Sample = dict[str, Any]  # mmseg's result dictionary


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """`img_path` -> `img` by `perception.data.images.read_image`: every file kind, one sentence for a bad one."""

    def transform(self, results: Sample) -> Sample:
        """Add `img` (BGR uint8), `img_shape` and `ori_shape` (height, width)."""
        return with_image(results, np.asarray(read_image(results["img_path"])))


@TRANSFORMS.register_module()
class ReadLabels(BaseTransform):
    """`seg_map_path` -> `gt_seg_map`, refused when size or ids do not fit.

    Stand it behind the geometric transforms to evaluate at the original size.
    """

    def __init__(
        self,
        num_classes: int,  # valid ids after reduce_zero_label: 0..num_classes-1
        ignore_index: int = 255,
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: Sample) -> Sample:
        """Add `gt_seg_map` (uint8) to `seg_fields`; the data set's reduce_zero_label and label_map are applied."""
        ids = read_labels(results["seg_map_path"])
        labels = train_ids(ids, results.get("label_map"), results.get("reduce_zero_label", False))
        check_labels(labels, results["ori_shape"], self.num_classes, self.ignore_index, str(results["seg_map_path"]))
        return with_labels(results, labels)


@TRANSFORMS.register_module()
class FlipOddViews(BaseTransform):
    """Mirror image and labels of views 1, 3, ... of `FixedViews`."""

    def transform(self, results: Sample) -> Sample:
        """Flip horizontally where `view` is odd."""
        return mirrored(results) if results.get("view", 0) % 2 else results


@TRANSFORMS.register_module()
class FixedCrop(BaseTransform):
    """Random scale, crop and mirror drawn from (seed, image, view): different views, the same in every epoch.

    The usual segmentation augmentation, but every crop of a view comes back in the next epoch, so that the features
    of a frozen backbone are computed once. Short sides are padded with black and label 255 at the right and bottom.
    """

    def __init__(
        self,
        size: tuple[int, int],  # height, width of the crop [pixels]
        scale: tuple[float, float] = (0.5, 2.0),  # the image's shorter side becomes scale x min(size)
        flip: float = 0.5,  # probability of mirroring
        seed: int = 0,
    ) -> None:
        self.size = tuple(size)
        self.scale = tuple(scale)
        self.flip = flip
        self.seed = seed

    def transform(self, results: Sample) -> Sample:
        """Replace `img` and the maps of `seg_fields` by the crop of this view."""
        rng = view_generator(self.seed, results["img_path"], results.get("view", 0))
        image = results["img"]
        factor = rng.uniform(self.scale[0], self.scale[1]) * min(self.size) / min(image.shape[:2])
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        top = int(rng.integers(max(0, height - self.size[0]) + 1))
        left = int(rng.integers(max(0, width - self.size[1]) + 1))

        def crop(values: np.ndarray, interpolation: int, fill: int) -> np.ndarray:
            scaled = cv2.resize(values, (width, height), interpolation=interpolation)
            cut = scaled[top : top + self.size[0], left : left + self.size[1]]
            missing = [(0, full - got) for full, got in zip(self.size, cut.shape[:2], strict=True)]
            return np.pad(cut, missing + [(0, 0)] * (cut.ndim - 2), constant_values=fill)

        results["img"] = crop(image, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR, 0)
        for field in results.get("seg_fields", []):
            results[field] = crop(results[field], cv2.INTER_NEAREST, 255)
        results["img_shape"] = self.size
        return mirrored(results) if rng.random() < self.flip else results


@TRANSFORMS.register_module()
class FitTestScale(BaseTransform):
    """Resize the image, sides in proportion, to fit into the `test_scale` of its set; labels behind it stay whole."""

    def transform(self, results: Sample) -> Sample:
        """Replace `img` and `img_shape`."""
        height, width = results["img"].shape[:2]
        factor = min(results["test_scale"][0] / width, results["test_scale"][1] / height)
        size = (round(width * factor), round(height * factor))
        results["img"] = cv2.resize(results["img"], size, interpolation=cv2.INTER_LINEAR)
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class RareClassCrop(RandomCrop):
    """A random crop, drawn anew until it shows enough of the `rare_class` that RareClasses chose the image for."""

    def __init__(
        self,
        crop_size: tuple[int, int],  # height, width [pixels]
        cat_max_ratio: float = 0.75,  # of the labelled pixels, that one class may fill
        min_pixels: int = 1500,  # of the rare class that are enough when exceeded
        tries: int = 10,
    ) -> None:
        super().__init__(tuple(crop_size), cat_max_ratio)
        self.min_pixels, self.tries = min_pixels, tries

    def crop_bbox(self, results: Sample) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the crop; the last one drawn where none shows enough."""
        label = results.get("rare_class")
        for _ in range(self.tries):
            box = super().crop_bbox(results)
            if label is None or np.count_nonzero(self.crop(results["gt_seg_map"], box) == label) > self.min_pixels:
                break
        return box


def view_generator(seed: int, image_id: str, view: int) -> np.random.Generator:
    """The random numbers of one view of one image."""
    digest = hashlib.sha256(f"{seed}\n{image_id}\n{view}".encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def with_image(results: Sample, rgb: np.ndarray) -> Sample:
    """Add an RGB image uint8 [H, W, 3] as mmseg wants it: BGR, with `img_shape` and `ori_shape` (height, width)."""
    results["img"] = np.ascontiguousarray(rgb[..., ::-1])
    results["img_shape"] = results["ori_shape"] = rgb.shape[:2]
    return results


def with_labels(results: Sample, labels: np.ndarray, field: str = "gt_seg_map") -> Sample:
    """Add a map [H, W] that is resized, cropped and mirrored with the image."""
    results[field] = labels
    results.setdefault("seg_fields", []).append(field)
    return results


def mirrored(results: Sample) -> Sample:
    """Flip the image and the maps of `seg_fields` horizontally."""
    for field in ["img", *results.get("seg_fields", [])]:
        results[field] = np.ascontiguousarray(results[field][:, ::-1])
    results["flip"], results["flip_direction"] = True, "horizontal"
    return results
