"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of the REFER tool: COCO images, one pickle of references, one JSON.

    <root>/<name>/instances.json             annotations and image sizes, COCO format
    <root>/<name>/refs(<author>).p           references: an annotation, its sentences and its split
    <root>/images/mscoco/images/train2014    the photographs

Kazemzadeh et al. 2014, Yu et al. 2016, Mao et al. 2016. Splits: author unc for RefCOCO and RefCOCO+ (train, val, testA,
testB), umd for RefCOCOg (train, val, test).
"""

from __future__ import annotations

import io
import operator
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.data.images import read_image
from perception.data.inputs import read_input, read_json
from perception.data.picture_files import MOST_PIXELS
from perception.errors import UserError

_ODD = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError),
    *(MemoryError, RecursionError),
)  # what content of another kind than expected leads to
AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
IMAGES = "images/mscoco/images/train2014"


@dataclass(frozen=True)
class Reference:
    """One thing of one photograph and all sentences that refer to it."""

    ref_id: int
    image: Path
    size: tuple[int, int]  # height, width of the photograph
    sentences: tuple[str, ...]
    segmentation: Any  # polygons [[x0, y0, x1, ...], ...] or run lengths {"counts", "size"}, COCO format

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels [H, W] of the thing. UserError where the annotation is of another size."""
        return segmentation_mask(self.segmentation, self.size, f"reference {self.ref_id}")


class RefCOCO:
    """A source of photographs with sentences: one record per reference with all of its sentences, or one per sentence.

    Raises:
        UserError: a missing file or split, or an empty sentence.
    """

    metainfo: ClassVar[Mapping[str, Any]] = {"task": "referring"}

    def __init__(
        self,
        data_root: str | Path,
        name: str,  # refcoco, refcoco+ or refcocog
        split: str,  # train, val, testA, testB; refcocog: train, val, test
        author: str | None = None,  # author of the split; default: unc, umd for refcocog
        images: str = IMAGES,  # folder of the photographs below data_root
        every: bool = False,  # one record per sentence (evaluation), with a `name`; else per reference (training)
        count: int | None = None,  # the first so many references
    ) -> None:
        self.references = read_references(data_root, name, split, author, images)[:count]
        self.entries = entries_of([len(reference.sentences) if every else None for reference in self.references])

    def __len__(self) -> int:
        return len(self.entries)

    def about(self, index: int) -> dict[str, Any]:
        """`img_path`, and the `name` of a sentence."""
        place, number = self.entries[index]
        reference = self.references[place]
        name = {} if number is None else {"name": f"{reference.image.stem}_{reference.ref_id}_{number}"}
        return {"img_path": str(reference.image), **name}

    def record(self, index: int) -> dict[str, Any]:
        """`image`, `sentences` and `masks` (the same for each), or `sentence` and `mask`."""
        place, number = self.entries[index]
        reference = self.references[place]
        image, mask = read_photograph(reference), reference.mask
        if number is not None:
            return {"image": image, "sentence": reference.sentences[number], "mask": mask}
        masks = [mask] * len(reference.sentences)
        return {"image": image, "sentences": reference.sentences, "masks": masks, "key": str(reference.ref_id)}


def entries_of(counts: Sequence[int | None]) -> list[tuple[int, int | None]]:
    """(picture, number of the sentence) for every sentence; (picture, None) where a count is None: all in one."""
    return [
        (place, number) for place, count in enumerate(counts) for number in ([None] if count is None else range(count))
    ]


def read_photograph(reference: Reference) -> NDArray[np.uint8]:
    """RGB [H, W, 3]. UserError: an image that is unreadable or of another size than its annotation."""
    image = np.asarray(read_image(reference.image))
    if image.shape[:2] != reference.size:
        (height, width), (rows, columns) = reference.size, image.shape[:2]
        raise UserError(
            f"{reference.image} is {columns} x {rows} pixels, but instances.json says {width} x {height}; take the "
            "photograph of COCO train2014"
        )
    return image


def read_references(
    root: str | Path,
    name: str,  # refcoco, refcoco+ or refcocog
    split: str,
    author: str | None = None,  # of the split; default: unc, umd for refcocog
    images: str = IMAGES,  # folder of the photographs below `root`
) -> list[Reference]:
    """All references of one split, by their number.

    Raises:
        UserError: an unknown data set, a missing or broken file, a split that is not there, an empty sentence.
    """
    if name not in AUTHORS:
        raise UserError(f"there is no data set {name!r}; choose one of {', '.join(AUTHORS)}")
    folder = Path(root) / name
    refs_file = folder / f"refs({author or AUTHORS[name]}).p"
    refs = _read_pickle(refs_file)
    _check_there(folder / "instances.json")
    instances = read_json(folder / "instances.json")
    try:
        chosen = [ref for ref in refs if ref["split"] == split]
        if not chosen:
            splits = ", ".join(sorted({str(ref["split"]) for ref in refs}))
            raise UserError(f"{refs_file} has no split {split!r}; choose one of {splits}")
        pictures = {entry["id"]: entry for entry in instances["images"]}
        outlines = {entry["id"]: entry["segmentation"] for entry in instances["annotations"]}
        found = [_reference(ref, pictures, outlines, Path(root) / images) for ref in chosen]
        return sorted(found, key=lambda reference: reference.ref_id)
    except UserError:
        raise
    except _ODD as error:
        raise UserError(
            f"{refs_file} does not fit instances.json beside it ({type(error).__name__}: {error}); download both again"
        ) from error


def segmentation_mask(segmentation: Any, size: tuple[int, int], what: str = "annotation") -> NDArray[np.bool_]:
    """A COCO segmentation as a mask [H, W]: the union of its polygons, or run lengths, compressed or not.

    Raises:
        UserError: run lengths of another size, or what is no segmentation.
    """
    try:
        if isinstance(segmentation, dict):
            return _from_runs(segmentation["counts"], size, what)
        mask = np.zeros(size, bool)
        for polygon in segmentation:
            mask |= polygon_mask(_corners(polygon), size)
    except UserError:
        raise
    except _ODD as error:
        raise UserError(
            f"the mask of {what} is no COCO segmentation ({type(error).__name__}: {error}); download instances.json "
            "again"
        ) from error
    return mask


def _corners(polygon: Any) -> NDArray[np.float64]:
    """[N, 2]. Raises ValueError for what are no pairs of finite numbers."""
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not finite")
    return corners


def polygon_mask(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels [H, W] whose centres lie inside a polygon (even-odd rule), as COCO's own API fills it.

    Args:
        corners: [N, 2] as (x, y) in pixels, pixel i spans [i, i + 1); rounded to fifths of a pixel, as COCO does.
            The polygon fillers of OpenCV and Pillow also take the pixels that an edge touches, which makes small
            things a pixel wider.
        size: height and width of the mask.
    """
    start = np.floor(5 * corners + 0.5) / 5
    end = np.roll(start, -1, axis=0)
    rows = np.arange(size[0])[:, None] + 0.5
    crossed = (start[:, 1] <= rows) != (end[:, 1] <= rows)  # [H, N]: the edge crosses the line through the centres
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    x = start[:, 0] + (rows - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    crossings = np.zeros((size[0], size[1] + 1), np.int64)
    first = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(np.int64)  # first pixel whose centre lies right of the edge
    np.add.at(crossings, (np.nonzero(crossed)[0], first[crossed]), 1)
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def _from_runs(counts: Sequence[int] | str | bytes, size: tuple[int, int], what: str) -> NDArray[np.bool_]:
    runs = _decompressed(counts) if isinstance(counts, (str, bytes)) else counts
    if sum(runs) != size[0] * size[1]:
        raise UserError(
            f"the mask of {what} covers {sum(runs)} pixels, but its image has {size[1]} x {size[0]}; download "
            "instances.json again"
        )
    values = np.arange(len(runs)) % 2 == 1  # runs of 0 and 1 take turns, in columns
    return np.repeat(values, runs).reshape(size[1], size[0]).T


def _decompressed(text: str | bytes) -> list[int]:
    """The run lengths in a string of COCO's API.

    A character minus 48 holds five bits, least significant group first, and 32 where more follow; the highest of the
    last five is the sign. From the fourth number on, the difference to the run before the last one is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        value |= (code - 48 & 31) << shift
        shift += 5
        if not code - 48 & 32:
            value -= (value >> shift - 1) << shift  # two's complement of `shift` bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _reference(ref: dict[str, Any], pictures: dict[int, Any], outlines: dict[int, Any], place: Path) -> Reference:
    picture = pictures[ref["image_id"]]
    sentences = tuple(sentence["raw"] for sentence in ref["sentences"])
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise UserError(f"reference {ref['ref_id']} has no sentence, or an empty one; correct its refs file")
    size = (operator.index(picture["height"]), operator.index(picture["width"]))
    if not (min(size) > 0 and size[0] * size[1] <= MOST_PIXELS):
        raise ValueError(f"a photograph of {size[1]} x {size[0]} pixels")
    return Reference(
        ref_id=operator.index(ref["ref_id"]),
        image=place / picture["file_name"],
        size=size,
        sentences=sentences,
        segmentation=outlines[ref["ann_id"]],
    )


_BUILDING = b"".join(  # what calls a class, changes an object, asks for an object elsewhere, or reserves memory
    [
        *(pickle.REDUCE, pickle.BUILD, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID),
        *(pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER),
    ]
)


class _PlainUnpickler(pickle._Unpickler):
    """Reads containers, strings and numbers; every class or function is refused, so that no pickled code runs.

    The one in Python: that in C takes memory for as many entries as a file says that it has.
    """

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _BUILDING}

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_pickle(path: Path) -> Sequence[dict[str, Any]]:
    _check_there(path)
    content = read_input(path, "the references ")
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()  # written by Python 2
    except (pickle.UnpicklingError, EOFError, struct.error, *_ODD) as error:
        raise UserError(f"{path} is no list of references ({error}); download it again") from error


def _check_there(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path} does not exist; configs/README.md says which files belong there")
