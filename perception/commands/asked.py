"""What a command was asked for, as `run_job` takes it: with it a finished job is known before a model is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perception.errors import UserError
from perception.jobs.finished import Request

# how a job runs, none of which changes a result
_FREE = ("out", "batch_size", "engine", "workers", "progress", "commit_seconds", "dry_run", "store")
_DENOISERS = ("backbone", "vae", "control")  # arguments that may name such models of the hub


def request_of(
    args: argparse.Namespace,
    *,
    model: Mapping[str, Any] | None = None,  # config of a trained head, which names its backbone
    further: tuple[Any, ...] = (),  # that results depend on, as plain values
    still_valid: Callable[[dict[str, Any]], bool] | None = None,  # of a finished record
) -> Request | None:
    """The request of parsed arguments; None where a model cannot be found, which loading it explains."""
    told = {name: value for name, value in sorted(vars(args).items()) if name not in _FREE and name[:4] != "ray_"}
    backbones = [text for name in _DENOISERS for text in _texts(told.get(name))]
    backbones += [text for text in _named(model or {}) if text not in backbones]
    try:
        pinned = () if "model" in told else tuple(_texts(told["backbone"]))
        found = [p for name in backbones if (p := _snapshot(name, "download", name in pinned and told["revision"]))]
        models = _texts(told.get("model"))
        found += [p for name in models if (p := _snapshot(name, "download_head", told["revision"]))]
        found += [p for name in _texts(told.get("preselect_clip")) if (p := _snapshot(name, "download_clip"))]
    except UserError:
        return None
    files = [Path(text).expanduser() for value in (*told.values(), backbones) for text in _texts(value)]
    named = tuple(path for path in files if os.path.lexists(path))
    check = {} if still_valid is None else {"still_valid": still_valid}
    return Request((tuple(told.items()), tuple(map(str, found)), further), (*named, *found), **check)


def _texts(value: Any) -> Iterator[str]:
    """All texts and paths of an argument that might name a file."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, (str, Path)) and value and "\0" not in str(value) and len(str(value)) < 4096:
        yield os.fspath(value)


def _named(config: Mapping[str, Any]) -> list[str]:
    """Backbone and autoencoder of a trained head."""
    inner = config.get("model")
    backbone = inner.get("backbone") if isinstance(inner, Mapping) else None
    places = [config.get("backbone"), config.get("vae")]
    places += [backbone.get("name"), backbone.get("vae")] if isinstance(backbone, Mapping) else []
    return [text for text in places if isinstance(text, str) and text]


def _snapshot(name: str, fetch: str, revision: str | bool | None = None) -> Path | None:
    """The local folder of a model of the hub; None for any other."""
    if name.count("/") != 1:
        return None
    from perception.backbones.loading import hub

    if not hub.is_hub_id(name):
        return None
    found: Path = getattr(hub, fetch)(name, *([revision] if revision else []))
    return found
