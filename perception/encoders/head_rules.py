"""What the config.json of a trained head may say: a head is data, so nothing is built that is not listed here.

mmengine builds whatever a `type` names, any function of any module, and some classes of mmseg read, and unpickle, the
files that an argument names. So a document is walked to its end before mmengine or mmseg is imported: every `type` is
one of `BUILDABLE`, words are words, and no argument names a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from perception.data.documents import entries
from perception.errors import UserError

_SCOPES = {
    "perception.": ("DiffusionFeatures", "PromptedSegmentor", "VPDFeatures"),
    "mmseg.": (
        # segmentors and what prepares their images
        *("EncoderDecoder", "CascadeEncoderDecoder", "SegDataPreProcessor"),
        # encoders without a diffusion model
        *("BEiT", "BiSeNetV1", "BiSeNetV2", "CGNet", "DDRNet", "ERFNet", "FastSCNN", "HRNet", "ICNet", "MAE"),
        *("MSCAN", "MixVisionTransformer", "MobileNetV2", "MobileNetV3", "PCPVT", "PIDNet", "ResNeSt", "ResNeXt"),
        *("ResNet", "ResNetV1c", "ResNetV1d", "STDCContextPathNet", "STDCNet", "SVT", "SwinTransformer"),
        *("TIMMBackbone", "UNet", "VisionTransformer"),
        # necks
        *("FPN", "Feature2Pyramid", "ICNeck", "JPU", "MLANeck", "MultiLevelNeck"),
        # heads
        *("ANNHead", "APCHead", "ASPPHead", "CCHead", "DAHead", "DDRHead", "DMHead", "DNLHead", "DPTHead", "EMAHead"),
        *("DepthwiseSeparableASPPHead", "DepthwiseSeparableFCNHead", "EncHead", "FCNHead", "FPNHead", "GCHead"),
        *("ISAHead", "IterativeDecodeHead", "KernelUpdateHead", "KernelUpdator", "LRASPPHead", "LightHamHead"),
        *("NLHead", "OCRHead", "PIDHead", "PSAHead", "PSPHead", "PointHead", "SETRMLAHead", "SETRUPHead", "STDCHead"),
        *("SegformerHead", "SegmenterMaskTransformerHead", "UPerHead"),
        # losses, and which pixels they count
        *("BoundaryLoss", "CrossEntropyLoss", "DiceLoss", "FocalLoss", "HuasdorffDisstanceLoss", "LovaszLoss"),
        *("OhemCrossEntropy", "TverskyLoss", "OHEMPixelSampler"),
    ),
    "mmcv.": (  # layers
        *("BN", "BN1d", "BN2d", "BN3d", "SyncBN", "GN", "LN", "IN", "IN1d", "IN2d", "IN3d"),
        *("Conv", "Conv1d", "Conv2d", "ConvAWS", "ConvWS", "deconv", "nearest", "bilinear", "pixel_shuffle"),
        *("ELU", "GELU", "HSigmoid", "HSwish", "LeakyReLU", "PReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Swish"),
        *("Tanh", "DropPath", "Dropout", "reflect", "replicate", "zero"),
    ),
}
BUILDABLE = {name: scope for scope, names in _SCOPES.items() for name in names}  # registered name -> its registry
_IMPORTED = {"mmseg.": ("mmseg.models.",), "mmcv.": ("mmcv.cnn.",)}  # where types of configs come from

DATASETS = {  # data sets that VPDFeatures may ask for the names of their classes
    "perception.": ("CamVid", "WorldScenes"),
    "mmseg.": (
        *("ADE20KDataset", "BDD100KDataset", "COCOStuffDataset", "CityscapesDataset", "LoveDADataset"),
        *("MapillaryDataset_v1", "MapillaryDataset_v2", "PascalContextDataset", "PascalContextDataset59"),
        *("PascalVOCDataset", "PotsdamDataset", "iSAIDDataset"),
    ),
}
_FILE = re.compile(
    r"init_cfg|store|.*(pretrained|checkpoint|load_from|resume).*|(.*_)?(path|file|filename|dir|folder|root|ur[li])"
)
_WORD = re.compile(r"[A-Za-z0-9_ -]{0,64}")  # no dot, slash or colon: neither a file, a URL nor a module
_TIMM = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64})?")  # a model of timm itself, not hf-hub:...
_TAP = re.compile(r"[a-z0-9_.]{1,128}")
_SHAPES = {
    "encoder": _TIMM,
    "model_name": _TIMM,
    "side": _TIMM,
    "taps": _TAP,
}  # of the strings under these keys; others are words
_FREE = ("names", "templates")  # lists of any text
# any text; load_backbone reads data alone
_PLAIN = (("backbone", "prompt"), ("backbone", "name"), ("backbone", "vae"), ("backbone",), ("vae",))
_MOST = 2**20  # of any number, and of the entries of a document


def check_model(model: Any, where: str) -> None:
    """Raise UserError unless `model`, of the config.json that `where` names, may be built.

    It names the first entry that may not stand there: a type that is not `BUILDABLE`, an argument that names a file,
    a key that mmengine would interpret, a number without bounds.
    """
    if not (isinstance(model, dict) and isinstance(model.get("backbone"), dict)):
        raise UserError(f"{where} describes no segmentor with a backbone; take the folder from who trained it")
    _refuse_first(problems(model), "model", where)


def check_arguments(config: Mapping[str, Any], where: str) -> None:
    """The same for the arguments of a network, which are plain values or lists; `metrics` may be anything."""
    arguments = {key: value for key, value in config.items() if key != "metrics"}
    objects = (((key,), "an object") for key, value in arguments.items() if isinstance(value, dict))
    _refuse_first(chain(objects, problems(arguments)), "", where)


def _refuse_first(found: Iterator[tuple[tuple[str, ...], str]], root: str, where: str) -> None:
    for path, problem in found:
        place = ".".join(part for part in (root, *path) if part)[:200] or "its top"
        raise UserError(
            f"{where} has {problem} at {place}, which no trained head of this toolkit has, so nothing of it is built; "
            "take the folder from who trained it, or train again"
        )


def problems(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and description of everything in a config that a trained head may not hold."""
    for count, (_, path, value) in enumerate(entries(document)):
        if count > _MOST:
            yield (), f"more than {_MOST} entries"
            return
        if isinstance(value, dict):
            found = ((key, _key_problem(key, entry)) for key, entry in value.items())
            yield from (((*path, key), problem) for key, problem in found if problem)
        elif problem := _value_problem(value, path):
            yield path, problem


def _key_problem(key: str, value: Any) -> str | None:
    if key.startswith("_"):
        return "a key of mmengine's own"
    if names_file(key, value):
        return "an argument that names a file"
    if key == "type" and not (isinstance(value, str) and registered_name(value)):
        return f"the type {str(value)[:60]!r}"
    if key == "class_weight" and isinstance(value, str):  # mmseg would read, and unpickle, a file
        return "a class_weight that names a file"
    return None


def names_file(key: str, value: Any) -> bool:
    """Whether an argument would have a file read or written, or weights fetched."""
    return _FILE.fullmatch(key) is not None and value not in (
        (None, False) if "pretrained" in key else (None, False, True)
    )


def _value_problem(value: Any, path: tuple[str, ...]) -> str | None:
    if isinstance(value, str):
        return None if path[-1] == "type" or _allowed(value, path) else f"the text {value[:60]!r}"
    if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= _MOST):
        return "a number without bounds"
    return None


def _allowed(text: str, path: tuple[str, ...]) -> bool:
    """Whether a string may stand at the end of `path` (keys, and indices of lists)."""
    key = next((key for key in reversed(path) if not key.isdigit()), "")
    if path[-1] == "names":
        return any(text == scope + name or text == name for scope, names in DATASETS.items() for name in names)
    return path in _PLAIN or key in _FREE or _SHAPES.get(key, _WORD).fullmatch(text) is not None


def registered_name(name: str) -> str | None:
    """`mmseg.models.FPN`, `mmseg.FPN` or `FPN` -> `mmseg.FPN`, a name that mmengine's registries know; None: unlisted.

    Layers of mmcv are known by their bare names.
    """
    bare = name.rpartition(".")[2]
    scope = BUILDABLE.get(bare)
    if scope is None or name not in (bare, scope + bare, *(place + bare for place in _IMPORTED.get(scope, ()))):
        return None
    return bare if scope == "mmcv." else scope + bare


def check_semantic(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless the config.json of a semantic head holds what `SegmentationModel` takes, and no more."""
    wrong = [name for name, fits in _ARGUMENTS.items() if name in config and not fits(config[name])]
    wrong += [key for key in config if key not in _ARGUMENTS]
    if wrong:
        raise UserError(
            f"{where} has an entry {wrong[0][:60]!r} that no semantic head has; expected model, classes (names), "
            "palette (RGB of each class), image_size (height and width), backbone_fingerprint, metrics, tested_side; "
            "take the folder from who trained it, or train again"
        )
    if len(config["classes"]) != len(config["palette"]):
        raise UserError(
            f"{where} names {len(config['classes'])} classes and {len(config['palette'])} colours; expected one each; "
            "train again"
        )
    check_model(config["model"], where)


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _list_of(fits: Callable[[Any], bool], value: Any, *lengths: int) -> bool:
    return isinstance(value, list) and (not lengths or len(value) in lengths) and all(map(fits, value))


_ARGUMENTS: Mapping[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict),
    "classes": lambda value: _list_of(lambda name: isinstance(name, str), value) and 0 < len(value) <= _MOST,
    "palette": lambda value: _list_of(lambda rgb: _list_of(lambda part: _whole(part, 0, 255), rgb, 3), value),
    "image_size": lambda value: value is None or _list_of(lambda side: _whole(side, 1, 2**16), value, 2),
    "backbone_fingerprint": lambda value: value is None or isinstance(value, str),
    "metrics": lambda value: value is None or isinstance(value, dict),
    "tested_side": lambda value: value is None or _whole(value, 1, 2**16),
}
