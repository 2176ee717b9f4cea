"""A caption per image for semantic segmentation (TADP: Kondapaneni et al. 2024), from text files to the denoiser.

model["type"] = PromptedSegmentor                            # in place of EncoderDecoder
model["backbone"].update({"conditioning": "captions"})       # of VPDFeatures
pipeline = [..., {"type": ReadCaption, "source": "data/camvid/captions.json"},
            {"type": PackSegInputs, "meta_keys": ["img_path", "ori_shape", "img_shape", "caption"]}]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from perception.data.inputs import read_json, read_text
from perception.errors import UserError
from perception.training.data.transforms import Sample
from perception.training.models.features import VPDFeatures
from perception.training.registry import MODELS, TRANSFORMS


@MODELS.register_module()
class PromptedSegmentor(EncoderDecoder):
    """mmseg's EncoderDecoder on a VPDFeatures that is told the `caption` of each data sample.

    Raises:
        UserError: a backbone that takes no captions.
    """

    def __init__(self, **parts: Any) -> None:  # of EncoderDecoder
        super().__init__(**parts)
        backbone = self.backbone
        if not isinstance(backbone, VPDFeatures) or not backbone.vpd.conditioning.per_image:
            raise UserError(
                "PromptedSegmentor hands captions to its backbone, which takes none; use VPDFeatures with"
                " conditioning='captions', or EncoderDecoder"
            )

    def forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None, mode: str = "tensor") -> Any:
        """As EncoderDecoder. UserError where a data sample has no caption."""
        self.backbone.given = [_caption_of(sample) for sample in data_samples or ()]
        try:
            return super().forward(inputs, data_samples, mode)
        finally:
            self.backbone.given = None


@TRANSFORMS.register_module()
class ReadCaption(BaseTransform):
    """`img_path` -> `caption`, out of `<image stem>.txt` in a folder or of one JSON file {image stem: caption}."""

    def __init__(
        self,
        source: str,  # the folder or the JSON file
    ) -> None:
        self.source = Path(source)
        self._table: dict[str, Any] | None = None  # of the JSON file, once it is read

    def transform(self, results: Sample) -> Sample:
        """Add the caption, on one line. UserError: no such file, none for this image, or an empty one."""
        stem = Path(results["img_path"]).stem
        caption = self._from_folder(stem) if self.source.is_dir() else self._from_table(stem)
        results["caption"] = " ".join(caption.split())
        if not results["caption"]:
            raise UserError(f"the caption of {stem} in {self.source} is empty; write what the image shows")
        return results

    def _from_folder(self, stem: str) -> str:
        path = self.source / f"{stem}.txt"
        if not path.exists():
            raise UserError(f"{self.source} has no {path.name}; every image needs a caption in a file of its name")
        return read_text(path, "the caption ")

    def _from_table(self, stem: str) -> str:
        if self._table is None:
            self._table = _read_table(self.source)
        caption = self._table.get(stem)
        if not isinstance(caption, str):
            raise UserError(f"{self.source} has no caption for {stem!r}; expected a sentence under every image's stem")
        return caption


def _caption_of(sample: SegDataSample) -> str:
    caption = sample.get("caption")
    if caption is None:
        raise UserError(
            f"{sample.get('img_path', 'a sample')} has no caption; put perception.ReadCaption into the pipeline and"
            " 'caption' into meta_keys of PackSegInputs"
        )
    return caption


def _read_table(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(
            f"the captions {path} do not exist; name a folder of <image stem>.txt or a JSON file {{stem: caption}}"
        )
    table = read_json(path, "the captions ")
    if not isinstance(table, dict):
        raise UserError(f"{path} holds a {type(table).__name__}; expected one object {{stem: caption}}")
    return table
