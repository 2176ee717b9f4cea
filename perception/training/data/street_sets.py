"""Training and test data of domain generalisation: real street scene sets, generated folders, rare class crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset, RandomCrop

from perception.data import world
from perception.data.street_sets import label_table, street_images, street_root, street_set
from perception.generation.finished_set import check_set_classes, generated_images
from perception.training.data.transforms import Sample
from perception.training.registry import DATASETS, TRANSFORMS

_METAINFO = {"classes": world.CLASSES, "palette": [list(c) for c in world.PALETTE]}  # 19 classes of Cityscapes


@DATASETS.register_module()
class StreetScenes(BaseSegDataset):
    """A real set by its name: gta, gta_raw, cityscapes, bdd100k, mapillary, acdc or dark_zurich.

    Its folder is `data_root`, else PERCEPTION_<NAME>, else data/<name>. Label ids become Cityscapes train ids.

    Raises:
        UserError: an unknown set, or files that are not laid out as `perception.data.street_sets` says.
    """

    METAINFO: ClassVar[dict[str, Any]] = _METAINFO

    def __init__(
        self,
        domain: str,  # which set
        split: str = "val",  # train or val; gta has none
        data_root: str | None = None,
        pipeline: Sequence[Any] = (),
        indices: int | Sequence[int] | None = None,  # the first so many, or these, of the sorted images
        test_mode: bool = False,
    ) -> None:
        self.domain, self.split, self.layout = domain, split, street_set(domain)
        self.folder = street_root(domain, data_root)
        super().__init__(data_prefix={}, pipeline=list(pipeline), indices=indices, test_mode=test_mode)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per image, in the order of the stems; `test_scale` is read by FitTestScale."""
        more = {"label_map": label_table(self.layout), "test_scale": self.layout.test_scale}
        return [_entry(pair.image, pair.labels, **more) for pair in street_images(self.domain, self.folder, self.split)]


@DATASETS.register_module()
class GeneratedScenes(BaseSegDataset):
    """The finished samples of a folder made by `perception generate`, 19 Cityscapes classes.

    Raises:
        UserError: the set has other classes, the job did not finish, or files are missing.
    """

    METAINFO: ClassVar[dict[str, Any]] = _METAINFO

    def __init__(
        self,
        folder: str,  # OUT of `perception generate`
        filtered: str | None = None,  # OUT of `perception score`: accepted samples alone, its label maps
        pipeline: Sequence[Any] = (),
        indices: int | Sequence[int] | None = None,  # the first so many, or these
        test_mode: bool = False,
    ) -> None:
        self.folder, self.filtered = folder, filtered
        super().__init__(data_prefix={}, pipeline=list(pipeline), indices=indices, test_mode=test_mode)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry per sample, in the order of the manifest."""
        check_set_classes(Path(self.folder), self.metainfo["classes"], type(self).__name__)
        return [_entry(pair.image, pair.labels) for pair in generated_images(self.folder, self.filtered)]


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


def _entry(image: Path, labels: Path, **more: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"label_map": None, "reduce_zero_label": False, "seg_fields": []}
    return {"img_path": str(image), "seg_map_path": str(labels), **common, **more}
