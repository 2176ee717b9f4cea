"""How many classes there are: data set, head and text of a semantic config must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perception.errors import UserError
from perception.training.config.channels import heads_of
from perception.training.config.check import find_type
from perception.training.registry import DATASETS


def class_names(names: str | Sequence[str]) -> Sequence[str]:
    """Class names themselves, or those of a registered data set.

    Raises:
        UserError: a name that no data set with classes has.
    """
    if not isinstance(names, str):
        return names
    classes = getattr(DATASETS.get(names), "METAINFO", {}).get("classes")
    if classes is None:
        raise UserError(f"names is {names!r}; expected a list of class names, or a data set that has them")
    return classes


def palette_of(names: str | Sequence[str]) -> list[list[int]]:
    """The colours [RGB] of a registered data set; none for a list of names."""
    found = DATASETS.get(names) if isinstance(names, str) else None
    return [list(colour) for colour in getattr(found, "METAINFO", {}).get("palette", [])]


def check_classes(model: Mapping[str, Any], classes: Sequence[str] | None, loader: str) -> None:
    """Compare the numbers of classes of a segmentor config; models without classes are not judged.

    Args:
        model: plain segmentor config.
        classes: of the data set; None where it has none.
        loader: of the data set, for the message.

    Raises:
        UserError: head and data set differ, or the head and the class names that a VPD is told, or the data set and
            the classes of a control network.
    """
    counts = [head["num_classes"] for head in heads_of(model) if "num_classes" in head]
    wrong = [count for count in counts if classes is not None and count != len(classes)]
    if wrong and classes is not None:
        raise UserError(
            f"the head of the model has {wrong[0]} classes (num_classes), but the data of {loader} have {len(classes)};"
            " use a model and data of the same classes"
        )
    control = model.get("names")
    if control is not None and classes is not None and list(class_names(control)) != list(classes):
        raise UserError(
            f"the control network is told the {len(class_names(control))} classes of model.names, but the data of"
            f" {loader} have {len(classes)} others; name the same classes, or the data set that has them"
        )
    told = _told(model.get("backbone") or {})
    if told is not None and counts and len(told) != counts[0]:
        raise UserError(
            f"model.backbone.names holds {len(told)} class names, but the head has {counts[0]} classes (num_classes);"
            " name every class once, or the data set of the classes"
        )


def _told(backbone: Mapping[str, Any]) -> Sequence[str] | None:
    """The class names that a VPD backbone is told; None for other backbones and texts."""
    kind = getattr(find_type(backbone["type"]), "__name__", "") if "type" in backbone else ""
    if kind != "VPDFeatures" or backbone.get("conditioning", "class_names") != "class_names":
        return None
    return class_names(backbone.get("names", ()))
