"""NYU Depth v2 in the layout of BTS: folders of rgb_*.jpg and sync_depth_*.png, named by file lists.

A line of a list holds the picture, its depth map and the focal length, both paths below the folder of the split:

    /kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579

Silberman et al. 2012; 24,231 training and 654 test frames of Lee et al. (BTS, 2019). Depth maps are 16-bit PNG in
millimetres, 0 = no measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.data.images import read_image
from perception.data.inputs import read_text
from perception.data.picture_files import DAMAGED, LABEL_FORMATS, open_picture
from perception.data.pictures import MILLIMETRES
from perception.errors import UserError

NYU_ROOMS: tuple[str, ...] = (
    "printer_room",
    "bathroom",
    "living_room",
    "study",
    "conference_room",
    "study_room",
    "kitchen",
    "home_office",
    "bedroom",
    "dinette",
    "playroom",
    "indoor_balcony",
    "laundry_room",
    "basement",
    "excercise_room",
    "foyer",
    "home_storage",
    "cafe",
    "furniture_store",
    "office_kitchen",
    "student_lounge",
    "dining_room",
    "reception_room",
    "computer_lab",
    "classroom",
    "office",
    "bookstore",
)
"""The room types, in the order of VPD's published embedding table; the spelling "excercise_room" is the data set's."""


@dataclass(frozen=True)
class DepthFrame:
    """One photograph with its depth map."""

    name: str  # "<folder>_<file>"; rooms are recognised in it
    image: Path
    depth: Path


class NYUDepth:
    """A source of photographs with depth [metres] and their room.

    Raises:
        UserError: a missing folder or file list.
    """

    metainfo: ClassVar[Mapping[str, Any]] = {"task": "depth"}

    def __init__(
        self,
        data_root: str | Path,
        folder: str,  # folder of the split, for example "sync" or "official_splits/test"
        file_list: str | None = None,  # below data_root; None: every pair in the folder
        count: int | None = None,  # the first so many frames
        scale: float = MILLIMETRES,  # counts per metre
    ) -> None:
        self.frames, self.scale = read_frames(data_root, folder, file_list)[:count], scale

    def __len__(self) -> int:
        return len(self.frames)

    def about(self, index: int) -> dict[str, Any]:
        """`img_path`, `name` and, for the conditioning, the room in `given`."""
        frame = self.frames[index]
        return {"img_path": str(frame.image), "name": frame.name, "given": room_id(frame.name)}

    def record(self, index: int) -> dict[str, Any]:
        """`image` and `depth`. UserError: a bad file, or maps of different sizes."""
        frame = self.frames[index]
        image, depth = np.asarray(read_image(frame.image)), read_depth(frame.depth, self.scale)
        check_depth(depth, image.shape[:2], str(frame.depth))
        return {"image": image, "depth": depth}


def room_id(name: str, rooms: Sequence[str] = NYU_ROOMS) -> int:
    """The first room that is a substring of a file name such as "study_room_0004_rgb_00001.jpg"; -1 if none is.

    The first one wins as in the published model: study_room is "study" (3), office_kitchen is "kitchen" (6).
    """
    return next((index for index, room in enumerate(rooms) if room in name), -1)


def read_frames(root: str | Path, folder: str, file_list: str | None = None) -> list[DepthFrame]:
    """The frames of one split, in the order of the list.

    Args:
        root: folder of the data set.
        folder: of the split below `root`, for example "sync" or "official_splits/test".
        file_list: below `root`; None takes every rgb_<n>.jpg that has a sync_depth_<n>.png beside it, sorted.
    Raises:
        UserError: a folder or list is missing, a line has no two paths, or nothing is found.
    """
    base = Path(root) / folder
    if not base.is_dir():
        raise UserError(f"{base} does not exist; configs/README.md says how NYU Depth v2 is laid out")
    pairs = _pairs_of_list(Path(root) / file_list) if file_list else _pairs_of_folder(base)
    return [
        DepthFrame(Path(image).with_suffix("").as_posix().replace("/", "_"), base / image, base / depth)
        for image, depth in pairs
    ]


def read_depth(path: str | Path, scale: float = MILLIMETRES) -> NDArray[np.float32]:
    """A 16-bit depth map in metres, float32 [H, W]; `scale` counts per metre, 0 = no measurement.

    Raises:
        UserError: the file is missing, unreadable, or not 16 bits and one channel.
    """
    try:
        with open_picture(path, "the depth map ", LABEL_FORMATS) as file:
            mode, values = file.mode, np.array(file)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"the depth map {path} cannot be read ({error}); replace the file") from error
    if not mode.startswith("I"):
        raise UserError(f"the depth map {path} has mode {mode}; expected 16-bit grey, {scale:g} counts per metre")
    return (values / scale).astype(np.float32)


def check_depth(depth: NDArray[np.float32], image_size: tuple[int, int], name: str) -> None:
    """Refuse a depth map of another size than its image (height, width) with a UserError."""
    if depth.shape != tuple(image_size):
        raise UserError(
            f"the depth map {name} is {depth.shape[1]} x {depth.shape[0]} pixels but its image"
            f" {image_size[1]} x {image_size[0]}; both must have the same size"
        )


def _pairs_of_list(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise UserError(f"the file list {path} does not exist; get it from BTS, or leave file_list out")
    pairs = []
    for number, line in enumerate(read_text(path, "the file list ").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) < 2:
            raise UserError(f"line {number} of {path} is {line!r}; expected a picture and its depth map")
        pairs.append((fields[0].lstrip("/"), fields[1].lstrip("/")))
    if not pairs:
        raise UserError(f"the file list {path} is empty; get it from BTS again, or leave file_list out")
    return pairs


def _pairs_of_folder(base: Path) -> list[tuple[str, str]]:
    images = sorted(path.relative_to(base) for path in base.rglob("rgb_*.*"))
    depths = [image.with_name(image.stem.replace("rgb_", "sync_depth_") + ".png") for image in images]
    pairs = [(i.as_posix(), d.as_posix()) for i, d in zip(images, depths, strict=True) if (base / d).is_file()]
    if not pairs:
        raise UserError(f"{base} holds no rgb_<n>.jpg with a sync_depth_<n>.png beside it; check the folder")
    return pairs
