"""Losses of real images by class, and their file class_loss.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.documents import conforms
from perception.data.inputs import read_json
from perception.errors import UserError
from perception.jobs.contract import fingerprint
from perception.metrics.class_loss import ClassLoss
from perception.metrics.component_recall import ComponentRecall

FILE = "class_loss.json"
_COUNTS = {"recalled": [int], "components": [int]}
_REFERENCE = {
    "head": {str: object},
    "images": int,
    "class_loss": {str: {"sum": float, "pixels": int}},
    "objects": {"areas": [int], "classes": {str: _COUNTS}},
}


@dataclass(frozen=True)
class Reference:
    """What a head does on real, labelled images."""

    class_loss: ClassLoss
    objects: ComponentRecall
    images: int
    head: Mapping[str, Any]  # `model` and `size` that the losses depend on

    def digest(self, names: Sequence[str]) -> str:
        """Names the losses: a part of the score job's fingerprint."""
        return fingerprint(self.class_loss.to_json(names))

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": 1,
            "head": dict(self.head),
            "images": self.images,
            "class_loss": self.class_loss.to_json(names),
            "objects": self.objects.to_json(),
        }


def read_reference(path: Path, names: Sequence[str]) -> Reference:
    """A class_loss.json. Raises UserError where it is broken or of other classes than `names`."""
    document = read_json(path, "the losses ")
    try:
        if not conforms(document, _REFERENCE):
            raise ValueError("it has other contents than were written")
        return Reference(
            ClassLoss.from_json(document["class_loss"], names),
            ComponentRecall.from_json(document["objects"]),
            document["images"],
            document["head"],
        )
    except ValueError as error:
        raise UserError(
            f"{path} is no class_loss.json for this head ({error}); measure the losses with --reference"
        ) from error
