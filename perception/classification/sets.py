"""Published classification sets by name: test images, the prompts they are compared with, and the customary figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from perception.classification.prompts import DEFAULT_TEMPLATE, PromptSet, class_prompts, prompt_table
from perception.data import classification_sets as layouts
from perception.data import unpacking
from perception.data.classification_sets import LabelledImage, class_folders, first_folder, folder_images
from perception.data.templates import TEMPLATE_SETS
from perception.errors import UserError

Templates = Sequence[str] | None
_Reader = Callable[[Path, Templates], tuple[list[LabelledImage], PromptSet]]


@dataclass(frozen=True)
class ClassificationSet:
    """Images with true classes, and prompts for the classes."""

    name: str
    images: tuple[LabelledImage, ...]  # class_id: position in prompts.names
    prompts: PromptSet
    mean_per_class: bool = False  # the figure that papers report; else top-1 (Kornblith et al. 2019)
    border: int = 0  # pixels to cut from each side first (ObjectNet: 2)
    preset: str | None = None  # its name in PRESETS
    numbers: tuple[tuple[int, ...], ...] | None = None  # per class: the classes of ImageNet (0 to 999) that it is

    def per_class(self, images: int) -> ClassificationSet:
        """The first `images` images of every class, in the order of the set."""
        left = dict.fromkeys(range(len(self.prompts.names)), images)
        kept = []
        for image in self.images:
            if left[image.class_id]:
                left[image.class_id] -= 1
                kept.append(image)
        return replace(self, images=tuple(kept))

    def subset(self, numbers: Sequence[int]) -> ClassificationSet:
        """Only these images, by their position. Raises UserError for a position outside the set."""
        wrong = [number for number in numbers if not 0 <= number < len(self.images)]
        if wrong:
            raise UserError(f"the set {self.name} has images 0 to {len(self.images) - 1}, not {wrong[0]}")
        return replace(self, images=tuple(self.images[number] for number in numbers))


@dataclass(frozen=True)
class _Info:
    """How a set is read and told."""

    read: _Reader
    torchvision: str | None = None  # its class there, which can download it
    mean_per_class: bool = False
    border: int = 0
    preset: str | None = None
    numbers: Callable[[Path, PromptSet], tuple[tuple[int, ...], ...] | None] = lambda root, prompts: None


def classification_set(
    name: str,  # one of SETS
    root: str | Path,  # folder that holds the set
    *,
    templates: Templates = None,  # other sentences than the published ones
    download: bool = False,  # fetch it into root first, where torchvision can
) -> ClassificationSet:
    """Find the test images of a set and the prompts of its classes.

    "folder": any folder with a sub-folder per class, named after it. Sets that come as one file (CIFAR, STL-10, MNIST)
    are unpacked once, to root/unpacked.

    Raises:
        UserError: an unknown name, a set that is not below `root` or incomplete, or one that cannot be downloaded.
    """
    if name not in SETS:
        raise UserError(f"unknown data set {name!r}; choose one of {', '.join(SETS)}")
    info, root = SETS[name], Path(root)
    if download:
        if info.torchvision is None:
            raise UserError(f"the set {name} cannot be downloaded; put it below {root} by hand")
        unpacking.download(root, info.torchvision)
    images, prompts = info.read(root, templates)
    numbers = info.numbers(root, prompts)
    return ClassificationSet(name, tuple(images), prompts, info.mean_per_class, info.border, info.preset, numbers)


def _listed(table: str, reader: Callable[[Path], list[LabelledImage]]) -> _Reader:
    def read(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
        return reader(root), prompt_table(table, templates)

    return read


def _packed(name: str, reader: Callable[[Path], unpacking.Pictures]) -> _Reader:
    return _listed(name, partial(unpacking.unpacked, name=name, read=reader))


def _fashion(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
    from torchvision.datasets import FashionMNIST  # heavy

    images = unpacking.unpacked(root, "fashion_mnist", partial(unpacking.idx_pictures, name="FashionMNIST"))
    names = [name.lower() for name in FashionMNIST.classes]
    return images, class_prompts(names, templates or (DEFAULT_TEMPLATE,))


def _underscored(folder: str) -> str:
    """ "annual_crop" -> "annual crop"."""
    return folder.replace("_", " ")


def _camel_case(folder: str) -> str:
    """ "AnnualCrop" -> "annual crop"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder).lower()


def _folders(
    *places: str,  # where below the root the class folders may be, else the root itself
    spoken: Callable[[str], str] = _underscored,  # folder name -> class name
    default: Sequence[str] = (DEFAULT_TEMPLATE,),
    skipped: Sequence[str] = (),  # folders that are no class
) -> _Reader:
    """A sub-folder per class, named after it."""

    def read(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
        base = first_folder(root, *places)
        names = [name for name in class_folders(base) if name not in skipped]
        prompts = class_prompts([spoken(name) for name in names], templates or default)
        return folder_images(base, {name: c for c, name in enumerate(names)}, "skip"), prompts

    return read


def _imagenet(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
    """val/WNID/*.JPEG or WNID/*.JPEG; all 1000 classes compete."""
    classes = {wnid: c for c, wnid in enumerate(_wnids())}
    return folder_images(first_folder(root, "val"), classes), prompt_table("imagenet", templates)


def _imagenet_v2(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
    """Folders named 0 to 999; in the order of sorted paths, as the reference numbers them."""
    base = first_folder(root, "imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency")
    return folder_images(base, {str(c): c for c in range(1000)}), prompt_table("imagenet", templates)


def _imagenet_a(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
    """Folders named by WordNet id; only the classes that have one compete (200 of ImageNet's)."""
    base, wnids = first_folder(root, "imagenet-a"), {wnid: c for c, wnid in enumerate(_wnids())}
    found = [name for name in class_folders(base) if name in wnids]
    images = folder_images(base, {name: c for c, name in enumerate(found)})
    return images, prompt_table("imagenet", templates).select([wnids[name] for name in found])


def _objectnet(root: Path, templates: Templates) -> tuple[list[LabelledImage], PromptSet]:
    """images/FOLDER/*.png; the 113 folders that overlap ImageNet, the others are left out."""
    prompts = prompt_table("objectnet", templates)
    folders = {folder: c for c, folder in enumerate(_objectnet_folders(prompts))}
    base = first_folder(root, "objectnet-1.0/images", "images")
    return folder_images(base, folders, "skip"), prompts


def _objectnet_numbers(root: Path, prompts: PromptSet) -> tuple[tuple[int, ...], ...] | None:
    """By the files in mappings/, which ObjectNet comes with; None where they were left out."""
    base = first_folder(root, "objectnet-1.0/mappings", "mappings")
    if base == root:
        return None
    numbers = layouts.objectnet_numbers(base)
    folders = _objectnet_folders(prompts)
    if missing := [folder for folder in folders if folder not in numbers]:
        raise UserError(f"{base} gives the folder {missing[0]} no class of ImageNet; unpack the set anew")
    return tuple(numbers[folder] for folder in folders)


def _objectnet_folders(prompts: PromptSet) -> list[str]:
    return [_OBJECTNET.get(name, name.replace(" ", "_")) for name in prompts.names]


def _own_indices(root: Path, prompts: PromptSet) -> tuple[tuple[int, ...], ...]:
    """The classes are ImageNet's."""
    return tuple((index,) for index in prompts.indices)


def _wnids() -> list[str]:
    """WordNet ids in the order of ImageNet's class indices."""
    from timm.data import ImageNetInfo  # heavy

    return ImageNetInfo().label_names()


_OBJECTNET = {
    "binder (closed)": "binder_closed",
    "butcher's knife": "butchers_knife",
    "coffee/french press": "coffee_french_press",
    "dress shoe (men)": "dress_shoe_men",
    "drying rack for plates": "drying_rack_for_dishes",
    "bath towel": "full_sized_towel",
    "dishrag or hand towel": "hand_towel_or_rag",
    "iron (for clothes)": "iron_for_clothes",
    "laptop (open)": "laptop_open",
    "mixing / salad bowl": "mixing_salad_bowl",
    "nail (fastener)": "nail_fastener",
    "weight (exercise)": "weight_exercise",
}
"""Class name -> folder, where the folder is not the name with underscores."""

SETS: dict[str, _Info] = {
    "pets": _Info(_listed("pets", layouts.pets), "OxfordIIITPet", mean_per_class=True, preset="pets"),
    "flowers": _Info(_listed("flowers", layouts.flowers), "Flowers102", mean_per_class=True, preset="flowers"),
    "food": _Info(_listed("food", layouts.food), "Food101", preset="food"),
    "aircraft": _Info(_listed("aircraft", layouts.aircraft), "FGVCAircraft", mean_per_class=True, preset="aircraft"),
    "cifar10": _Info(
        _packed("cifar10", partial(unpacking.torchvision_pictures, name="CIFAR10")), "CIFAR10", preset="cifar10"
    ),
    "cifar100": _Info(
        _packed("cifar100", partial(unpacking.torchvision_pictures, name="CIFAR100")), "CIFAR100", preset="cifar100"
    ),
    "stl10": _Info(_packed("stl10", partial(unpacking.torchvision_pictures, name="STL10")), "STL10", preset="stl10"),
    "mnist": _Info(_packed("mnist", partial(unpacking.idx_pictures, name="MNIST")), "MNIST"),
    "fashion_mnist": _Info(_fashion, "FashionMNIST"),
    "eurosat": _Info(
        _folders("eurosat/2750", "2750", spoken=_camel_case, default=TEMPLATE_SETS["eurosat"][:1]), "EuroSAT"
    ),
    "caltech101": _Info(
        _folders("caltech101/101_ObjectCategories", "101_ObjectCategories", skipped=("BACKGROUND_Google",)),
        "Caltech101",
        mean_per_class=True,
    ),
    "imagenet": _Info(_imagenet, preset="imagenet", numbers=_own_indices),
    "imagenet-v2": _Info(_imagenet_v2, preset="imagenet", numbers=_own_indices),
    "imagenet-a": _Info(_imagenet_a, preset="imagenet", numbers=_own_indices),
    "objectnet": _Info(_objectnet, border=2, preset="objectnet", numbers=_objectnet_numbers),
    "folder": _Info(_folders()),
}
"""The sets that `classification_set` knows; all are test splits, Caltech-101 and EuroSAT have none and come whole."""


@dataclass(frozen=True)
class Preset:
    """Published stages and loss of one data set (Li et al. 2023, command list of the release; SD 2.0-base, 512 px).

    The accuracy is in percent, mean per class where that is customary.
    """

    samples: tuple[int, ...]
    keep: tuple[int, ...]
    loss: str
    accuracy: float | None = None


_FOUR = (20, 50, 100, 500), (20, 10, 5, 1)

PRESETS: dict[str, Preset] = {
    "food": Preset(*_FOUR, "l2", 77.7),
    "cifar10": Preset((50, 500), (5, 1), "l1", 88.5),
    "cifar100": Preset(*_FOUR, "l1", 67.7),
    "aircraft": Preset(*_FOUR, "l2", 26.4),
    "pets": Preset((25, 250), (5, 1), "l1", 87.3),
    "flowers": Preset(*_FOUR, "l1", 66.3),
    "stl10": Preset((100, 500), (5, 1), "l1", 95.4),
    "imagenet": Preset((50, 100, 500, 1000), (500, 50, 10, 1), "l2", 61.4),
    "objectnet": Preset((50, 100, 500, 1000), (25, 10, 5, 1), "l2", 43.4),
}


def preset(name: str) -> Preset:
    """Look up a preset. Raises UserError naming the known ones."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
