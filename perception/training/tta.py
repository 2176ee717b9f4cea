"""Test-time augmentation: every test image at several scales and mirrored, class probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcv.transforms import Resize
from mmengine.config import Config
from mmseg.datasets import PackSegInputs

from perception.errors import UserError
from perception.training.config.check import find_type

VPD_RATIOS = (1.0, 1.125, 1.25, 1.375, 1.5)  # of the published multi-scale figures


@dataclass(frozen=True)
class Views:
    """The versions of an image whose probabilities are averaged.

    Raises:
        UserError: no ratio, or one that is not positive.
    """

    ratios: Sequence[float] = VPD_RATIOS  # factors on the size to which the test pipeline resizes
    flip: bool = True  # each also mirrored

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) <= 0:
            raise UserError(f"the scales of --tta are {list(self.ratios)}; expected positive factors such as 1.0 1.25")


def augment_pipeline(config: Config, views: Views) -> None:
    """Put the test pipeline of a semantic config, from its Resize on, into `TestTimeAug`, in place.

    Labels must be read behind the resizing, so that they stay as they are; all configs here do so. Data samples keep
    `flip` and `flip_direction`, by which predictions are mirrored back.

    Raises:
        UserError: the test pipeline has no Resize to vary.
    """
    pipeline = config.test_dataloader.dataset.to_dict().get("pipeline", [])
    place = next((i for i, step in enumerate(pipeline) if find_type(step["type"]) is Resize and "scale" in step), None)
    if place is None:
        raise UserError(
            "--tta varies the scale of a Resize in test_dataloader.dataset.pipeline, and there is none; add one behind"
            " reading the image, or leave --tta out"
        )
    sizes = [_scaled(pipeline[place], ratio) for ratio in views.ratios]
    flips = [{"type": "mmcv.transforms.RandomFlip", "prob": p} for p in ((0.0, 1.0) if views.flip else (0.0,))]
    steps = [sizes, flips, *([_with_flips(step)] for step in pipeline[place + 1 :])]
    augmented = {"type": "mmcv.transforms.TestTimeAug", "transforms": steps}
    config.test_dataloader.dataset.pipeline = [*pipeline[:place], augmented]


def averaging(config: Config) -> None:
    """Put the completed model behind mmseg's SegTTAModel, which averages the probabilities of all views, in place."""
    config.model = {"type": "mmseg.models.SegTTAModel", "module": config.model.to_dict()}


def _with_flips(step: dict[str, Any]) -> dict[str, Any]:
    """The step itself; of one that names the keys to keep, with those of a mirror image among them."""
    if find_type(step["type"]) is not PackSegInputs or "meta_keys" not in step:
        return step
    return {**step, "meta_keys": list(dict.fromkeys([*step["meta_keys"], "flip", "flip_direction"]))}


def _scaled(resize: dict[str, Any], ratio: float) -> dict[str, Any]:
    """A Resize to `ratio` times the size (width, height) [pixels]."""
    scale = resize["scale"]
    sides = (scale, scale) if isinstance(scale, int) else scale
    return {**resize, "scale": tuple(round(side * ratio) for side in sides)}
