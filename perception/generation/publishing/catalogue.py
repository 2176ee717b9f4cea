"""Files beside the samples of a generated set: their list, class statistics and a preview sheet."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception.data.files import fitting
from perception.data.picture_files import DAMAGED, open_picture
from perception.data.pictures import overlay_labels, png_bytes
from perception.errors import UserError
from perception.generation.labels import Vocabulary, colour_picture
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE

Record = Mapping[str, Any]  # a manifest line of a finished sample
SHEET, CARD, SAMPLES = "preview.png", "README.md", "samples.txt"
STATISTICS = ("sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json")
_GOLDEN = 0.618034  # of the colour circle: neighbouring ids get hues far apart


def statistics_files(records: Sequence[Record], place: str = LABEL_PLACE) -> dict[str, bytes]:
    """The three class statistics of the segmentation literature (DAFormer), with paths relative to the data set.

    `place` is where the label map of a sample id lies.
    """
    rows = [{"file": fitting(place.format(record["id"])), **record["class_pixels"]} for record in records]
    by_file = {row["file"]: {key: count for key, count in row.items() if key != "file"} for row in rows}
    by_class: dict[str, list[list[Any]]] = {}
    for file, counts in by_file.items():
        for label, count in counts.items():
            by_class.setdefault(label, []).append([file, count])
    ordered = {label: by_class[label] for label in sorted(by_class, key=int)}
    return {
        name: json.dumps(content, indent=0).encode() + b"\n"
        for name, content in zip(STATISTICS, (rows, by_file, ordered), strict=True)
    }


def samples_file(records: Sequence[Record]) -> dict[str, bytes]:
    """The list of the samples' ids, one a line: mmseg's `ann_file`."""
    return {SAMPLES: "".join(f"{record['id']}\n" for record in records).encode()}


def palette_of(vocabulary: Vocabulary) -> Sequence[tuple[int, int, int]]:
    """RGB by class id: the vocabulary's own, or colours spread over the circle."""
    if vocabulary.palette:
        return vocabulary.palette
    hues = [number * _GOLDEN % 1 for number in range(len(vocabulary))]
    colours = [colorsys.hsv_to_rgb(hue, 0.75, 0.9) for hue in hues]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours]


def preview_sheet(
    root: Path,  # folder of the data set
    records: Sequence[Record],
    vocabulary: Vocabulary,
    most: int = 16,  # samples shown, evenly spread
    columns: int = 2,  # samples side by side
    height: int = 192,  # of a sample, pixels
) -> bytes:
    """PNG bytes of a sheet: image, coloured label map and both mixed, for samples from all over the set."""
    chosen = [records[i * len(records) // min(most, len(records))] for i in range(min(most, len(records)))]
    cells = [_cell(root, record, vocabulary, height) for record in chosen]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    return png_bytes(np.concatenate(rows))


def _cell(root: Path, record: Record, vocabulary: Vocabulary, height: int) -> np.ndarray:
    """RGB uint8 [height, W, 3]."""
    pixels = _pixels(root / IMAGE_PLACE.format(record["id"]), "RGB")
    labels = _pixels(root / LABEL_PLACE.format(record["id"]), "L")
    palette = palette_of(vocabulary)
    strip = np.concatenate([pixels, colour_picture(labels, palette), overlay_labels(pixels, labels, palette, 0.5)], 1)
    size = (max(1, round(strip.shape[1] * height / strip.shape[0])), height)
    return np.asarray(Image.fromarray(strip).resize(size, Image.Resampling.BILINEAR))


def _pixels(path: Path, mode: str) -> np.ndarray:
    """A picture of the set. Raises UserError where the file is damaged."""
    try:
        with open_picture(path) as image:
            return np.asarray(image.convert(mode))
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the job again to make it anew") from error
