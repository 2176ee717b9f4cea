"""From a config file and overrides to the plain, checked config that a Runner gets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from perception.errors import UserError
from perception.training.config.channels import with_channels
from perception.training.config.check import (
    RUNNER_KEYS,
    config_mistakes,
    find_type,
    nearest,
    option_mistakes,
    schedule_mistakes,
)
from perception.training.config.classes import check_classes
from perception.training.config.signature import signature_of
from perception.training.config.variables import unread_variables
from perception.training.registry import DATASETS

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@dataclass(frozen=True)
class Overrides:
    """What the command line changes in a config."""

    options: Sequence[str] = ()  # "a.b.c=value"
    data_root: str | None = None  # replaces data_root of every data set
    work_dir: str | None = None  # default: runs/<name of the config>


def load_config(path: str | Path, overrides: Overrides | None = None) -> Config:
    """Read, override, check and complete a config; types become dotted names and helper variables drop out.

    Raises:
        UserError: the file is missing or fails as Python, or, all together: keys that no constructor takes, types that
            do not exist, overrides and variables that change nothing, and no model.
    """
    path, overrides = Path(path), overrides or Overrides()
    mistakes = [
        f"{name}: {reason}, so setting it changes nothing; {nearest(name, RUNNER_KEYS)}"
        for name, reason in sorted(unread_variables(path, RUNNER_KEYS).items())
    ]
    config = _executed(path)
    options = parse_options(overrides.options)
    wrong_options = option_mistakes(config.to_dict(), options)
    if not wrong_options:
        config.merge_from_dict(options)
    plain = {key: value for key, value in config.to_dict().items() if key in RUNNER_KEYS}
    absent = [] if "model" in plain else ["model: is missing; configs/README.md lists configs to start from"]
    _raise_together(path, mistakes + wrong_options + config_mistakes(plain) + schedule_mistakes(plain) + absent)
    if overrides.data_root is not None:
        _set_data_root(plain, overrides.data_root)
    plain["work_dir"] = overrides.work_dir or plain.get("work_dir") or str(Path("runs") / path.stem)
    return Config(plain, filename=str(path))


def _executed(path: Path) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # whatever a Python file may raise
        reason = " ".join(str(error).split())
        raise UserError(f"the config {path} cannot be read ({type(error).__name__}: {reason}); correct it") from error


def complete_model(config: Config) -> None:
    """Fill the channels of neck and heads from the backbone (loads its weights), in place."""
    config.model = with_channels(config.model.to_dict())


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x,y"]` -> `{"a.b": 1, "c": ["x", "y"]}` in mmengine's syntax."""
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise UserError(f"--cfg-options takes key=value pairs, but got {', '.join(wrong)}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="*", action=DictAction, default={})
    return dict(parser.parse_args(["--options", *options]).options or {}) if options else {}


def preflight(config: Config, loaders: Sequence[str]) -> None:
    """Build each data set and read its first sample, so that bad data is reported before any weights load.

    Raises:
        UserError: a missing data root or file, no samples, another number of classes than the model's, or whatever the
            data set reports.
    """
    init_default_scope(config.get("default_scope", "mmseg"))
    for loader in loaders:
        if config.get(loader) is None:
            continue
        for node in _datasets(config[loader].to_dict()):
            root = node.get("data_root")
            if root is not None and not Path(root).is_dir():
                raise UserError(
                    f"the data root {root} of {loader} does not exist; download the data set"
                    " (the docstring of the config says where) or name its folder with --data-root"
                )
        dataset = DATASETS.build(config[loader]["dataset"].to_dict())
        check_classes(config.model.to_dict(), dataset.metainfo.get("classes"), loader)
        if len(dataset) == 0:
            raise UserError(f"the data set of {loader} is empty; check its folders, split and indices")
        dataset[0]


def _raise_together(path: Path, mistakes: Sequence[str]) -> None:
    if mistakes:
        many = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise UserError("\n  ".join([f"{path} has {many}:", *mistakes]))


def _set_data_root(plain: dict[str, Any], root: str) -> None:
    found = [node for loader in LOADERS for node in _datasets(plain.get(loader) or {})]
    roots = [node for node in found if "data_root" in node or _takes_data_root(node)]
    if not roots:
        raise UserError("--data-root was given, but no data set of this config reads files; leave it out")
    for node in roots:
        node["data_root"] = root


def _takes_data_root(node: dict[str, Any]) -> bool:
    target = find_type(node["type"])
    return target is not None and "data_root" in signature_of(target).required


def _datasets(loader: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The data set of a loader config and those nested inside it (views, repeats, concatenations)."""
    for inner in (loader.get("dataset"), *(loader.get("datasets") or [])):
        if isinstance(inner, dict):
            yield inner
            yield from _datasets(inner)
