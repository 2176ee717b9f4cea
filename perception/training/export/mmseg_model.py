"""A trained head as a folder: config.json, model.safetensors and a model card, through huggingface_hub.

model = SegmentationModel.from_pretrained("runs/fpn_mini_camvid/model")
labels = model.predict(image)           # PIL image -> uint8 [H, W]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from mmengine.config import ConfigDict
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from perception.data.files import replacing_folder
from perception.encoders.head_folder import HeadFolder
from perception.encoders.head_rules import BUILDABLE, check_model, check_semantic, names_file, registered_name
from perception.encoders.network import TaskNetwork
from perception.errors import UserError
from perception.segmentation.predictor import network_input
from perception.training.config.check import find_type
from perception.training.config.classes import class_names
from perception.training.hooks import check_state
from perception.training.registry import MODELS

_CARD = """---
library_name: perception
tags: [semantic-segmentation]
---
# Segmentation head, {classes} classes

Trained on the backbone `{backbone}`; a frozen diffusion backbone is not part of the weights here.

```python
from perception.training.export.mmseg_model import SegmentationModel

labels = SegmentationModel.from_pretrained(FOLDER).predict(PIL.Image.open("street.jpg"))
```

{figures}
"""


class SegmentationModel(nn.Module, HeadFolder):
    """A trained mmseg segmentor: RGB images in [0, 1] to class logits.

    Raises:
        UserError: the backbone found now is not the one the head was trained on.
    """

    def __init__(
        self,
        model: dict[str, Any],  # complete mmseg segmentor config; types as names
        classes: Sequence[str],  # by class id
        palette: Sequence[Sequence[int]],  # RGB by class id
        image_size: Sequence[int] | None = None,  # height, width the head was trained at; None: as the image is
        backbone_fingerprint: str | None = None,  # of the diffusion backbone; None: any other backbone
        metrics: dict[str, Any] | None = None,  # of the validation that chose these weights
        tested_side: int | None = None,  # shorter side of the pictures over which windows slide; None: the window's
    ) -> None:
        super().__init__()
        self.classes = list(classes)
        self.palette = [list(colour) for colour in palette]
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        test = model.get("test_cfg") or {}
        self.tested_side = tested_side or (min(test["crop_size"]) if test.get("mode") == "slide" else None)
        self.metrics = metrics or {}
        self.backbone_name = str(model["backbone"].get("name") or model["backbone"].get("model_name"))
        check_model(model, "this head")
        self.segmentor = MODELS.build(ConfigDict(model))
        found = fingerprint_of(self.segmentor)
        if found != backbone_fingerprint:
            raise UserError(
                f"this head was trained on backbone weights {backbone_fingerprint}, but"
                f" {self.backbone_name!r} is {found} here;"
                " use the same backbone or train the head again"
            )
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [B, classes, H, W] of RGB images [B, 3, H, W] in [0, 1]; sides divisible by 64."""
        height, width = images.shape[-2:]
        trained = self.segmentor.data_preprocessor  # mean and std, if it has them, are of values 0..255
        images = (images - getattr(trained, "mean", 0.0) / 255) / (getattr(trained, "std", 255.0) / 255)
        meta = {"ori_shape": (height, width), "img_shape": (height, width), "pad_shape": (height, width)}
        return self.segmentor.inference(images, [dict(meta) for _ in images])

    @torch.inference_mode()
    def predict(self, image: Image.Image) -> np.ndarray:
        """Class ids uint8 [H, W] of one image, at its own size."""
        pixels = network_input(image, self.image_size, self.tested_side)
        logits = self(pixels.to(next(self.parameters()).device))
        full = nn.functional.interpolate(logits, (image.height, image.width), mode="bilinear")
        return full.argmax(1)[0].to(torch.uint8).cpu().numpy()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README of the folder: usage and the figures of the chosen validation."""
        figures = "\n".join(f"- {name}: {value}" for name, value in self.metrics.items() if not isinstance(value, dict))
        names = {"classes": len(self.classes), "backbone": self.backbone_name, "figures": figures}
        return ModelCard(_CARD.format(**names))

    @classmethod
    def check_config(cls, config: Mapping[str, Any], folder: str | Path) -> None:
        """Raise UserError unless config.json holds arguments of this class, and a model that may be built."""
        check_semantic(config, f"{folder}/config.json")


def export_model(
    segmentor: nn.Module,
    model_config: Mapping[str, Any],
    metainfo: Mapping[str, Any],
    folder: Path,
    image_size: Sequence[int] | None,
    metrics: Mapping[str, Any],
    *,
    tested_side: int | None = None,
) -> None:
    """Write the artifact folder of a trained segmentor; an older one at this place is replaced when all is written.

    Args:
        segmentor: holds the trained weights, keys as the built `model_config` has them.
        model_config: complete segmentor config; machine paths such as the feature store are dropped.
        metainfo: classes and palette of the data set.
        image_size: height and width of the training images, None where they vary.
        metrics: kept in config.json.
        tested_side: shorter side of the pictures over which windows slide, where it is not the window's.
    """
    model = SegmentationModel(
        model=portable(model_config),
        classes=list(metainfo["classes"]),
        palette=[list(map(int, colour)) for colour in metainfo["palette"]],
        image_size=list(image_size) if image_size else None,
        backbone_fingerprint=fingerprint_of(segmentor),
        metrics=dict(metrics),
        tested_side=tested_side,
    )
    check_state(segmentor.state_dict(), model.segmentor.state_dict(), "the trained model")
    model.segmentor.load_state_dict(segmentor.state_dict())
    save_folder(model, folder)


def export_network(
    network: TaskNetwork, folder: Path, image_size: Sequence[int] | None, metrics: Mapping[str, Any]
) -> None:
    """Write the artifact folder of a referring or depth network; arguments as in `export_model`."""
    network.image_size = None if image_size is None else (image_size[0], image_size[1])
    network.metrics = dict(metrics)
    save_folder(network, folder)


def save_folder(model: PyTorchModelHubMixin, folder: Path) -> None:
    """`save_pretrained` beside the folder, then put in its place."""
    with replacing_folder(folder) as fresh:
        model.save_pretrained(fresh)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of an artifact folder under the keys of its segmentor or network; raises as `read_file`."""
    return {key.removeprefix("segmentor."): value for key, value in read_file(folder).items()}


def read_file(folder: Path) -> dict[str, Tensor]:
    """The weights of an artifact folder under the keys of its file.

    Raises:
        UserError: model.safetensors is torn.
    """
    try:
        return load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}/model.safetensors is torn ({error}); copy the folder again") from error


def portable(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """A segmentor config for other machines: registered names, no argument that names a file, JSON values alone."""
    plain: dict[str, Any] = _portable(json.loads(json.dumps(dict(model_config))))
    if isinstance(plain["backbone"].get("names"), str):
        plain["backbone"]["names"] = list(class_names(plain["backbone"]["names"]))
    return plain


def _portable(value: Any) -> Any:
    if isinstance(value, list):
        return [_portable(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _portable(entry) for key, entry in value.items() if not names_file(key, entry)}
    if isinstance(kept.get("type"), str):
        kept["type"] = registered_name(kept["type"]) or _names_by_class().get(find_type(kept["type"]), kept["type"])
    return kept


@lru_cache
def _names_by_class() -> dict[Any, str]:
    names = [name for bare in BUILDABLE if (name := registered_name(bare))]
    return {find_type(name): name for name in reversed(names)}  # of several names of a class the first


def fingerprint_of(segmentor: nn.Module) -> str | None:
    """Fingerprint of the frozen diffusion backbone under a segmentor; None where there is none."""
    return getattr(segmentor.backbone, "fingerprint", None)
