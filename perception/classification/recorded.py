"""Reads the output of `perception classify --save-errors`: errors per image, and the true class where known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from perception.classification.replay import Recorded
from perception.data.documents import conforms, parse_json
from perception.data.inputs import open_regular
from perception.errors import UserError
from perception.jobs.folder import change, read_settings
from perception.jobs.manifest import DONE, read_manifest, strange_line

_DECISIVE = ("prompts", "classes", "loss", "pool", "size", "crop", "class_tokens")  # options that scale the errors


def job_fingerprint(backbone: str, options: Mapping[str, Any]) -> str:
    """Of a classify job: its options and the fingerprint of its backbone."""
    return hashlib.sha256(json.dumps([backbone, options], sort_keys=True).encode()).hexdigest()[:16]


def check_same_errors(folder: Path, backbone: str, options: Mapping[str, Any]) -> None:
    """UserError unless the job of `folder` measured what a job with this backbone and these options measures."""
    fingerprint, old = read_settings(folder)
    differing = [change(key, old, options) for key in _DECISIVE if old.get(key) != options.get(key)]
    if not differing and fingerprint != job_fingerprint(backbone, old):
        differing = ["another backbone or dtype"]
    if differing:
        raise UserError(
            f"the errors in {folder} were made with {', '.join(differing)}, so they say nothing about this run; "
            "calibrate with the same classes, backbone and options"
        )


def read_recorded(out: Path) -> tuple[tuple[str, ...], list[Recorded]]:
    """Class names and all finished images of an exhaustive run in `out`.

    Raises UserError when there are none, when the run did not save its errors, or when a file is damaged.
    """
    records = [record for record in read_manifest(out) if record["status"] == DONE]
    if not records:
        raise UserError(
            f"{out} holds no finished image; run `perception classify IMAGES --save-errors --out {out}` first"
        )
    names: tuple[str, ...] = ()
    images = []
    for record in records:
        if not conforms(record, {"truth?": (str, None)}):
            raise strange_line(out, record["id"])
        saved = [path for path in record["output"] if path.startswith("errors/")]
        if not saved:
            raise UserError(f"{out} holds no errors; run `perception classify` with --method exhaustive --save-errors")
        names, image = _read(out / saved[0], record.get("truth"))
        images.append(image)
    return names, images


def _read(path: Path, truth: str | None) -> tuple[tuple[str, ...], Recorded]:
    try:
        with open_regular(path, "a file of errors"), safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            classes, rows = parse_json(metadata["classes"]), parse_json(metadata.get("rows", "null"))
            errors, timesteps = file.get_tensor("errors"), file.get_tensor("timesteps")
        names = _checked_names(classes, rows, errors, timesteps, truth)
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"cannot read the errors in {path} ({error}); classify that image again") from error
    number = {name: c for c, name in enumerate(names)}
    ids = tuple(number[name] for name in classes)
    known = None if truth is None else number[truth]
    return names, Recorded(errors, tuple(timesteps.tolist()), ids, known, None if rows is None else tuple(rows))


def _checked_names(classes: Any, rows: Any, errors: Tensor, timesteps: Tensor, truth: str | None) -> tuple[str, ...]:
    """The names of the classes. Raises ValueError where the parts of a file do not fit together."""
    count = len(classes) if conforms(classes, [str]) else 0
    fits = errors.is_floating_point() and errors.shape == (count, *timesteps.shape) and timesteps.dim() == 1
    if not count or not fits or not conforms(rows, ([int], None)) or (rows is not None and len(rows) != count):
        raise ValueError("its classes, errors and timesteps do not fit together")
    if truth is not None and truth not in classes:
        raise ValueError(f"there is no class {truth!r}")
    return tuple(dict.fromkeys(classes))
