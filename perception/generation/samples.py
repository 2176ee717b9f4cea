"""The samples of a data set: label map x repetition, with a domain, and a class to crop around."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.files import fitting
from perception.data.segmentation_folder import read_labels
from perception.errors import UserError
from perception.generation.domains import NONE
from perception.generation.labels import Vocabulary, check_label_map, class_counts
from perception.generation.sampling import LabelCounts, RareClassSampler
from perception.generation.scenes import layout_stream

LABEL_SUFFIXES = ("_gtFine_labelTrainIds", "_labelTrainIds")  # left out of sample ids
LABEL_FORMATS = (".png", ".tif", ".tiff", ".bmp")
_ENDS = len("_12345678_labelTrainIds.png")  # what stands behind a stem in names of files
IMAGE_PLACE, LABEL_PLACE = "images/{}.png", "labels/{}_labelTrainIds.png"  # below the data set's folder


@dataclass(frozen=True)
class Sample:
    """One image to be made; its id names its files and its random streams."""

    id: str  # stem of the label map, below LABELS, cut where it is too long, and the repetition
    path: Path  # of the label map
    source: str  # the same, relative to LABELS
    repetition: int
    label: int | None  # class to crop around; None: the middle
    domain: str | None  # of the prompt; "": none, None: drawn


def label_files(folder: str | Path) -> dict[str, Path]:
    """Label maps below a folder, by path relative to it, sorted; hidden files and colour pictures are passed over.

    A folder with `*_labelTrainIds.png` files counts as holding no others.

    Raises:
        UserError: there is no such folder, or no label map in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; a folder of label maps was expected")
    paths = {path.relative_to(root): path for path in root.rglob("*") if path.suffix.lower() in LABEL_FORMATS}
    found = {
        key.as_posix(): path
        for key, path in sorted(paths.items())
        if not any(part.startswith(".") for part in key.parts) and not os.path.isdir(path)
    }
    named = {key: path for key, path in found.items() if path.stem.endswith(LABEL_SUFFIXES[-1])}
    if not found:
        raise UserError(f"{root} holds no label map ({', '.join(LABEL_FORMATS)}); check the folder")
    return named or found


def plan_samples(
    files: Mapping[str, Path],  # of `label_files`
    per_label: int | Mapping[str, int],  # of every label map, or by label map
    domains: Sequence[str],  # dealt out evenly; (): drawn for each sample
    seed: int,
    labels: Mapping[str, int | None],  # label map -> class to crop around; only these are used
) -> list[Sample]:
    """All samples, map by map. More repetitions leave the samples that there were as they are.

    Raises:
        UserError: two label maps would give samples of the same name.
    """
    samples: list[Sample] = []
    stems: dict[str, str] = {}
    counts = [per_label if isinstance(per_label, int) else per_label[source] for source in labels]
    for (source, label), drawn in zip(labels.items(), dealt_domains(domains, counts, seed), strict=True):
        stem = sample_stem(source)
        if (other := stems.setdefault(stem, source)) != source:
            raise UserError(f"the label maps {other} and {source} would give samples of one name; rename one of them")
        for repetition, domain in enumerate(drawn):
            name = f"{fitting(stem, _ENDS)}_{repetition}"
            samples.append(Sample(name, files[source], source, repetition, label, domain))
    return samples


def sample_stem(source: str) -> str:
    """'town/frame_labelTrainIds.png' -> 'town/frame'."""
    stem = source[: -len(Path(source).suffix)]
    return next((stem.removesuffix(end) for end in LABEL_SUFFIXES if stem.endswith(end)), stem)


def check_listed(name: str) -> None:
    """UserError for a name that a list with one a line, UTF-8, cannot hold, or whose readers would cut it."""
    if name != name.strip() or len(name.splitlines()) > 1:
        raise UserError(
            f"the name {name!r} has a line break in it or a space at its end, and lists of samples have one name a "
            "line; rename the file"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {name!r} is no UTF-8 text, which lists of samples are; rename the file") from error


def dealt_domains(domains: Sequence[str], counts: Sequence[int], seed: int) -> list[list[str | None]]:
    """The domain of every repetition of every label map ("": none; None: drawn), `counts` repetitions of each.

    Dealt out in turn over the whole job, in an order drawn from the seed: the first repetition of all maps, then the
    second, ... So the domains differ by at most one sample, whatever the size of the job. After a round that comes out
    even the next one begins a domain later: the repetitions of a map differ.
    """
    if not domains:
        return [[None] * count for count in counts]
    order = [domains[number] for number in layout_stream(seed, "domains").permutation(len(domains))]
    hands: list[list[str | None]] = [[] for _ in counts]
    dealt = later = 0
    for repetition in range(max(counts, default=0)):
        for hand, count in zip(hands, counts, strict=True):
            if repetition < count:
                name = order[(dealt + later) % len(order)]
                hand.append("" if name == NONE else name)
                dealt += 1
        later += dealt % len(order) == 0
    return hands


def read_label_map(path: Path, vocabulary: Vocabulary) -> np.ndarray:
    """A label map uint8 [H, W], its ids checked. Raises UserError where it is no map of these classes."""
    name = f"the label map {path.name}"
    return check_label_map(vocabulary.translated(read_labels(path), name), len(vocabulary), name)


def count_labels(
    files: Mapping[str, Path],
    vocabulary: Vocabulary,
    unusable: Callable[[str], None],  # told why a map is left out
    workers: int = 2,  # threads that read maps
    advance: Callable[[int], None] = lambda count: None,  # told how many are through
) -> list[LabelCounts]:
    """Pixels per class of every label map, in the order of `files`."""

    def counts(source: str) -> LabelCounts | str:
        try:
            return LabelCounts(source, class_counts(read_label_map(files[source], vocabulary), len(vocabulary)))
        except UserError as error:
            return str(error)

    rows: list[LabelCounts] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="count")
    try:
        for found in pool.map(counts, files):
            if isinstance(found, LabelCounts):
                rows.append(found)
            else:
                unusable(found)
            advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def rare_labels(
    statistics: Iterable[LabelCounts],
    files: Mapping[str, Path],
    count: int,  # of label maps
    seed: int,
    temperature: float = 0.01,
    min_pixels: int = 3000,
) -> dict[str, int | None]:
    """Different label maps drawn by rare class sampling, each with the class that it was drawn for.

    A larger count draws the same maps first.

    Raises:
        UserError: statistics of other files, or fewer usable maps than asked for.
    """
    names = {Path(source).name: source for source in files} | {source: source for source in files}
    rows = [LabelCounts(names.get(row.file) or names.get(Path(row.file).name, ""), row.pixels) for row in statistics]
    if not all(row.file for row in rows):
        raise UserError(
            "the class statistics name label maps that are not below --labels; count them anew by leaving "
            "--statistics out"
        )
    return dict(RareClassSampler(rows, temperature, min_pixels).select(count, layout_stream(seed, "rare classes")))
