"""Builds the network of a checkpoint: sizes are read from its tensors, the rest is as in the reference."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perception.backbones.loading.load import load_backbone
from perception.convert.layouts import size_of
from perception.convert.reading import Checkpoint
from perception.data.nyu import NYU_ROOMS
from perception.depth.net import DepthNet
from perception.encoders.vpd.encoder import VPD
from perception.encoders.vpd.taps import vpd_taps
from perception.errors import UserError
from perception.segmentation.referring import ReferringNet

_WINDOW = [512, 512]  # pixels
_FINE_TUNED = {"adapter": True, "latent_scale": 1.0, "train": "denoiser"}  # the reference feeds the raw VAE mean


@dataclass(frozen=True)
class Target:
    """A network to be filled, and how to write it."""

    module: nn.Module  # its state dict has the names of `Layout.names`
    vpd: VPD
    save: Callable[[Path], object]  # writes the artifact folder
    note: str = ""  # for the reader of the report


def semantic_target(checkpoint: Checkpoint, backbone: str, classes: Sequence[str] | None) -> Target:
    """mmseg's FPN and FPNHead on VPD; windows of 512 pixels, stride 341, as published.

    Raises:
        UserError: a number of class names that is not the checkpoint's.
    """
    from perception.training.config.channels import with_channels
    from perception.training.export.mmseg_model import export_model
    from perception.training.registry import MODELS

    weights = checkpoint.weights
    count = size_of(weights, r"class_embeddings|decode_head\.conv_seg\.(weight|bias)", 0, 150)
    names, palette, note = _classes(checkpoint, count, classes)
    config = with_channels(_segmentor(weights, backbone, names))
    module = MODELS.build(config)

    def save(folder: Path) -> None:
        export_model(module, config, {"classes": names, "palette": palette}, folder, None, {})

    return Target(module, module.backbone.vpd, save, note)


def referring_target(checkpoint: Checkpoint, backbone: str, classes: Sequence[str] | None) -> Target:
    """ReferringNet at 512x512; the sentence length follows from the channels of a convolution: hidden + C + L."""
    _no_classes(classes)
    model = load_backbone(backbone, device="cpu")
    hidden = size_of(checkpoint.weights, r"classifier\.conv\d_[432]\.weight", 0, 640)
    width = model.taps[vpd_taps(model)[1]].channels  # of the second map
    length = size_of(checkpoint.weights, r"classifier\.conv1_3\.weight", 1, 0) - hidden - width
    length = length if 0 < length <= model.max_text_tokens else model.max_text_tokens
    # fmt: off
    network = ReferringNet(
        model, length=length, truncate=True, hidden=hidden, image_size=(512, 512), **_FINE_TUNED,  # type: ignore[arg-type]
    )
    # fmt: on
    return Target(network, network.vpd, network.save_pretrained, f"sentences of {length} tokens")


def depth_target(checkpoint: Checkpoint, backbone: str, classes: Sequence[str] | None) -> Target:
    """DepthNet at NYUv2's 480x640, metres up to 10; room ids 0..26 are the NYU rooms unless other names are given."""
    weights, deconv = checkpoint.weights, r"decoder\.deconv_layers\.{}\.weight"
    rooms = size_of(weights, r"encoder\.class_embeddings", 0, len(NYU_ROOMS))
    names = classes or (NYU_ROOMS if rooms == len(NYU_ROOMS) else [f"room {i}" for i in range(rooms)])
    _check_count(names, rooms)
    last = max((int(m[1]) for name in weights if (m := re.match(r"decoder\.deconv_layers\.(\d+)\.", name))), default=7)
    layers = range(0, last + 1, 3)  # transposed convolution, norm, ReLU
    network = DepthNet(
        load_backbone(backbone, device="cpu"),
        conditioning="class_id",
        names=names,
        fusion_channels=size_of(weights, r"encoder\.out_layer\.(0|1)\.(weight|bias)", 0, 1536),
        num_filters=[size_of(weights, deconv.format(i), 1, 32) for i in layers],
        deconv_kernels=[size_of(weights, deconv.format(i), 2, 2) for i in layers],
        decoder_channels=size_of(weights, r"decoder\.conv_layers\.(0|1)\.(weight|bias)", 0, 192),
        image_size=(480, 640),
        **_FINE_TUNED,  # type: ignore[arg-type]
    )
    return Target(network, network.vpd, network.save_pretrained, f"{rooms} rooms")


TARGETS: Mapping[str, Callable[[Checkpoint, str, Sequence[str] | None], Target]] = {
    "vpd-seg": semantic_target,
    "vpd-refer": referring_target,
    "vpd-depth": depth_target,
}


def _segmentor(weights: Mapping[str, Tensor], backbone: str, names: Sequence[str]) -> dict[str, Any]:
    width = size_of(weights, r"neck\.\w+_convs\.\d\.conv\.(weight|bias)", 0, 256)
    norm = {"type": "BN", "requires_grad": True}
    return {
        "type": "mmseg.models.EncoderDecoder",
        "data_preprocessor": {
            "type": "mmseg.models.SegDataPreProcessor",
            "mean": [0.0, 0.0, 0.0],
            "std": [255.0, 255.0, 255.0],  # RGB in [0, 1]
            "bgr_to_rgb": True,
            "size": _WINDOW,  # images smaller than a window are padded
            "size_divisor": None,
            "pad_val": 0.5,  # grey
            "test_cfg": {"size": _WINDOW},
        },
        "backbone": {
            "type": "perception.VPDFeatures",
            "name": backbone,
            "names": list(names),
            "adapter_hidden": size_of(weights, r"text_adapter\.fc\.0\.(weight|bias)", 0, 0) or None,
            **_FINE_TUNED,
        },
        "neck": {"type": "mmseg.models.FPN", "out_channels": width, "num_outs": 4},
        "decode_head": {
            "type": "mmseg.models.FPNHead",
            "in_index": [0, 1, 2, 3],
            "channels": size_of(weights, r"decode_head\.scale_heads\.\d\.\d\.conv\.weight", 0, 256),
            "num_classes": len(names),
            "dropout_ratio": 0.1,
            "norm_cfg": norm,
            "align_corners": False,
            "loss_decode": {"type": "mmseg.models.CrossEntropyLoss", "avg_non_ignore": True},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "slide", "crop_size": _WINDOW, "stride": [341, 341]},
    }


def _classes(checkpoint: Checkpoint, count: int, given: Sequence[str] | None) -> tuple[list[str], list[list[int]], str]:
    """Names and colours: as given, as mmcv noted them, as of ADE20K for 150, or numbers."""
    from mmseg.datasets import ADE20KDataset

    ade = ADE20KDataset.METAINFO
    noted, colours = _noted(checkpoint.meta, "CLASSES", str), _noted(checkpoint.meta, "PALETTE", (list, tuple))
    if given is None and noted is None and count != len(ade["classes"]):
        given = [f"class {i}" for i in range(count)]
        note = f"{count} classes, numbered: the file names none (--classes names them)"
    else:
        note = f"{count} classes"
    names = list(given or noted or ade["classes"])
    _check_count(names, count)
    if colours is None or len(colours) != count:
        colours = ade["palette"] if count == len(ade["palette"]) else [_colour(i) for i in range(count)]
    return names, [list(map(int, colour)) for colour in colours], note


def _noted(meta: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Sequence[Any] | None:
    """What mmcv noted beside the weights: names, or colours of three whole numbers; None for anything else."""
    found = meta.get(key)
    if not isinstance(found, (list, tuple)) or not all(isinstance(entry, kind) for entry in found):
        return None
    colours = kind is not str
    return None if colours and not all(_is_colour(entry) for entry in found) else found


def _is_colour(entry: Sequence[Any]) -> bool:
    return len(entry) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in entry)


def _colour(index: int) -> list[int]:
    """RGB; hues by the golden ratio, so that neighbours differ."""
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.9)]


def _check_count(names: Sequence[str], count: int) -> None:
    if len(names) != count:
        raise UserError(f"{len(names)} class names were given, but the checkpoint has {count} classes; name each once")


def _no_classes(classes: Sequence[str] | None) -> None:
    if classes:
        raise UserError("a referring checkpoint has no classes; leave --classes out")
