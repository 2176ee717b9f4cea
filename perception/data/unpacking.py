"""Sets that come as a few large files: their test images as PNG files, unpacked once, so that a job can name each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from perception.data.classification_sets import LabelledImage
from perception.data.fashion_mnist import read_idx
from perception.data.files import explain_disk_errors
from perception.errors import UserError

Pictures = Iterable[tuple[Image.Image, int]]  # image and class id, in the order of the set


def unpacked(root: Path, name: str, read: Callable[[Path], Pictures]) -> list[LabelledImage]:
    """The test images below root/unpacked/NAME/CLASS/NUMBER.png; `read(root)` makes them where they are missing.

    The folder appears by one rename, so it is whole or absent. Raises UserError when the set is not below `root`, or
    `root` cannot be written.
    """
    target = root / "unpacked" / name
    if not target.is_dir():
        with explain_disk_errors(target):
            _write(target, read(root))
    images = [LabelledImage(f"{p.parent.name}/{p.name}", p, int(p.parent.name)) for p in target.glob("*/*.png")]
    return sorted(images, key=lambda image: image.path.name)  # the order of the set


def _write(target: Path, pictures: Pictures) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for number, (image, class_id) in enumerate(pictures):
            path = temporary / f"{class_id:03d}" / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, compress_level=1)
        if not target.is_dir():  # another process may have been faster
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def idx_pictures(root: Path, name: str) -> Pictures:
    """MNIST and its likes: t10k-images-idx3-ubyte and labels, plain or .gz, in root/NAME/raw, root/NAME or root."""
    parts = ("images-idx3", "labels-idx1")
    images, labels = (read_idx(_idx_path(root, name, f"t10k-{part}-ubyte")) for part in parts)
    return ((Image.fromarray(pixels), int(label)) for pixels, label in zip(images, labels, strict=True))


def torchvision_pictures(root: Path, name: str) -> Pictures:
    """CIFAR10, CIFAR100 (torchvision checks their MD5 sums) or STL10."""
    from torchvision import datasets  # heavy

    options = {"split": "test"} if name == "STL10" else {"train": False}
    try:
        dataset = getattr(datasets, name)(root, **options)
    except RuntimeError as error:
        raise UserError(f"{name} is not below {root} ({error}); give its folder, or download the set") from error
    return (dataset[i] for i in range(len(dataset)))


def download(root: Path, name: str) -> None:
    """Fetch and unpack a set with torchvision, by the name of its class there; what is there is kept.

    Raises UserError when the network or the server does not give it.
    """
    from torchvision import datasets  # heavy

    splits = (
        {} if name in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "EuroSAT", "Caltech101") else {"split": "test"}
    )
    try:
        getattr(datasets, name)(root, download=True, **splits)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} could not be downloaded to {root} ({error}); put it there by hand") from error


def _idx_path(root: Path, name: str, file: str) -> Path:
    """Where an IDX file of a set is, plain or .gz."""
    folders = (root / name / "raw", root / name, root)
    path = next((p for folder in folders for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    if path is None:
        raise UserError(f"{folders[0] / file} does not exist; give the folder that holds {name}, or download the set")
    return path
