"""Reads what `perception classify --save-errors` has written: errors per image, and the truth where it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from perception.classification.replay import Recorded
from perception.engine.manifest import DONE, read_manifest
from perception.errors import UserError

_DECISIVE = ("prompts", "classes", "loss", "pool", "size", "crop", "class_tokens")  # options that scale the errors


def job_fingerprint(backbone: str, options: Mapping[str, Any]) -> str:
    """Of a classify job: its options and the fingerprint of its backbone."""
    return hashlib.sha256(json.dumps([backbone, options], sort_keys=True).encode()).hexdigest()[:16]


def check_same_errors(folder: Path, backbone: str, options: Mapping[str, Any]) -> None:
    """UserError unless the job of `folder` measured what a job with this backbone and these options measures."""
    path = folder / "job.json"
    try:
        job = json.loads(path.read_bytes())
        old, fingerprint = dict(job["options"]), job["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not readable as the settings of a job; run the calibration again") from error
    differing = [
        f"{key} = {old.get(key)!r} (now {options.get(key)!r})" for key in _DECISIVE if old.get(key) != options.get(key)
    ]
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
        saved = [path for path in record["output"] if path.startswith("errors/")]
        if not saved:
            raise UserError(f"{out} holds no errors; run `perception classify` with --method exhaustive --save-errors")
        names, image = _read(out / saved[0], record.get("truth"))
        images.append(image)
    return names, images


def _read(path: Path, truth: str | None) -> tuple[tuple[str, ...], Recorded]:
    try:
        with safe_open(path, "pt") as file:
            classes: list[str] = json.loads(file.metadata()["classes"])
            rows = json.loads(file.metadata().get("rows", "null"))
            errors, timesteps = file.get_tensor("errors"), file.get_tensor("timesteps")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read the errors in {path} ({error}); classify that image again") from error
    names = tuple(dict.fromkeys(classes))
    number = {name: c for c, name in enumerate(names)}
    ids = tuple(number[name] for name in classes)
    known = None if truth is None else number[truth]
    return names, Recorded(errors, tuple(timesteps.tolist()), ids, known, None if rows is None else tuple(rows))
