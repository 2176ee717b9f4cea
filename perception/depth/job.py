"""The depth job: image files in; 16-bit pictures, arrays, colours and manifest records out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perception.backbones.typicality import TypicalityMeter
from perception.data.documents import conforms
from perception.data.files import fitting
from perception.data.nyu import room_id
from perception.data.pictures import depth_colours, depth_millimetres, png_bytes
from perception.depth.predictor import DepthPredictor
from perception.jobs.contract import Outcome, fingerprint
from perception.jobs.images import marks, picture_name, read_picture
from perception.jobs.items import Item

DEPTH_RECORD = {"size": [int, int], "min": float, "median": float, "max": float}
_UNKNOWN = -1  # class id of a room that is not known


class Sample(NamedTuple):
    """One image file, read."""

    id: str  # of the item
    image: Image.Image
    given: Any  # room id, caption, or None


class DepthJob:
    """Job predictor of a depth model: depth/ID (16-bit PNG, millimetres), colours/ID and arrays/ID.npy below OUT.

    The record holds `size` (height, width) and `min`, `median`, `max` in metres.
    """

    def __init__(
        self,
        predictor: DepthPredictor,
        given: Any,  # what the network is told of every image: a room id, a caption, or None
        rooms: Sequence[str],  # by class id; unless empty, the first one in folder and file name is told instead
        settings: Mapping[str, Any],  # everything else that changes a result; `npy` and `colours` are read
        meter: TypicalityMeter | None = None,  # marks images that are unlike those of the training
    ) -> None:
        self.predictor = predictor
        self.meter = meter
        self.device = predictor.device
        self.given = given
        self.rooms = rooms
        self.evaluations = max(1, predictor.windows) * (2 if predictor.flip else 1)
        self.options = dict(settings)
        self.fingerprint = fingerprint(self.options)
        self.revisions: dict[str, str] = {}  # commits of what came from the hub

    def prepare(self, item: Item) -> Sample:
        """Read one file."""
        given = self.given if not self.rooms or item.path is None else self._room(item)
        return Sample(*read_picture(item), given)

    def __call__(self, batch: Sequence[Sample]) -> list[Outcome]:
        """Estimate pictures, one by one, so that a result does not depend on its neighbours."""
        return [self._one(sample) for sample in batch]

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes."""
        return conforms(record, DEPTH_RECORD)

    def _room(self, item: Item) -> int:
        """The first room that is part of 'FOLDER_FILE', as in the published model."""
        assert item.path is not None
        name = f"{item.path.absolute().parent.name}_{item.path.name}"
        return room_id(name, self.rooms)

    def _one(self, sample: Sample) -> Outcome:
        metres = self.predictor(sample.image, sample.given)
        least, middle, most = (round(float(value), 4) for value in (metres.min(), np.median(metres), metres.max()))
        record: dict[str, Any] = {"size": list(metres.shape), "min": least, "median": middle, "max": most}
        if self.rooms and sample.given != _UNKNOWN:
            record["room"] = self.rooms[sample.given]
        record |= marks(self.meter, sample.image)
        name = picture_name(sample.id)
        files = {f"depth/{name}": png_bytes(depth_millimetres(np.nan_to_num(metres)))}
        if self.options["colours"]:
            files[f"colours/{name}"] = png_bytes(depth_colours(np.nan_to_num(metres)))
        if self.options["npy"]:
            buffer = io.BytesIO()
            np.save(buffer, metres)
            files[fitting(f"arrays/{sample.id}.npy")] = buffer.getvalue()
        return Outcome(record, files)


def depth_line(record: Mapping[str, Any]) -> str:
    """'1.2 .. 9.8 m, median 4.0 m' of a record."""
    return f"{record['min']:.1f} .. {record['max']:.1f} m, median {record['median']:.1f} m"
