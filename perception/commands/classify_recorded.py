"""Reads what `perception classify --save-errors` has written: errors per image, and the truth where it is known."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from perception.classification.replay import Recorded
from perception.engine.manifest import DONE, read_manifest
from perception.errors import UserError


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
            errors, timesteps = file.get_tensor("errors"), file.get_tensor("timesteps")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read the errors in {path} ({error}); classify that image again") from error
    names = tuple(dict.fromkeys(classes))
    ids = tuple(names.index(name) for name in classes)
    return names, Recorded(errors, tuple(timesteps.tolist()), ids, None if truth is None else names.index(truth))
