"""Evaluate trained segmentors on several domains; what is finished is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.files import file_hash, write_atomic
from perception.data.street_sets import street_root
from perception.errors import UserError
from perception.training.app import test
from perception.training.config.check import find_type
from perception.training.config.load import Overrides, load_config
from perception.training.config.signature import signature_of
from perception.training.data.records import StreetScenes
from perception.training.domain_table import DomainTable


@dataclass(frozen=True)
class Evaluations:
    """Which models are tested on what."""

    models: Mapping[str, Sequence[Path]]  # name -> folders of trained heads (WORK_DIR/model), one per seed
    config: Path  # whose test data set takes a `domain`
    domains: Sequence[str]
    out: Path  # results, one JSON file per evaluation, and the table
    seen: Sequence[str] = ()  # domains that were trained on
    options: Sequence[str] = ()  # overrides of the config


def evaluate(job: Evaluations, tell: Callable[[str], None] = print) -> DomainTable:
    """Run what is missing, then write OUT/table.md and OUT/table.json.

    An evaluation is known by the hash of its weights, the test part of the config, the domain and the data root.

    Raises:
        UserError: mistakes in the job, or whatever `test` reports. Finished evaluations stay.
    """
    _check(job)
    scores: dict[str, dict[str, list[float]]] = {}
    for name, folders in job.models.items():
        row = {domain: [_score(job, name, folder, domain, tell) for folder in folders] for domain in job.domains}
        scores[name] = row
    table = DomainTable(scores, job.seen)
    write_atomic(job.out / "table.md", table.markdown().encode())
    write_atomic(job.out / "table.json", json.dumps(table.to_json(), indent=1).encode() + b"\n")
    return table


def _score(job: Evaluations, name: str, folder: Path, domain: str, tell: Callable[[str], None]) -> float:
    """mIoU of one model on one domain, from its file where that fits."""
    number = list(job.models[name]).index(folder)
    place = job.out / "evaluations" / f"{name}_{number}_{domain}.json"
    options = (*job.options, f"test_dataloader.dataset.domain={domain}")
    identity = _identity(job.config, folder, options)
    kept = _kept(place, identity)
    if kept is None:
        overrides = Overrides(options, work_dir=str(job.out / "logs" / place.stem))
        report = test(job.config, folder, overrides)
        write_atomic(place, json.dumps({**identity, **report}, indent=1).encode())
        kept = float(report["mIoU"])
        tell(f"{name} ({folder}), {domain}: mIoU {kept:.2f}")
    else:
        tell(f"{name} ({folder}), {domain}: mIoU {kept:.2f} (from {place})")
    return kept


def _kept(place: Path, identity: Mapping[str, Any]) -> float | None:
    if not place.exists():
        return None
    stored = json.loads(place.read_text())
    return float(stored["mIoU"]) if all(stored.get(key) == value for key, value in identity.items()) else None


def _identity(config_file: Path, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    config = load_config(config_file, Overrides(options)).to_dict()
    tested = {key: config.get(key) for key in ("test_dataloader", "test_evaluator", "test_cfg")}
    identity = {"weights": file_hash(folder / "model.safetensors"), "test": json.loads(json.dumps(tested))}
    dataset = config["test_dataloader"]["dataset"]
    if find_type(dataset["type"]) is StreetScenes:  # the config need not say where its files are
        root = street_root(dataset["domain"], dataset.get("data_root"))
        identity["data_root"] = str(root.resolve())
    return identity


def _check(job: Evaluations) -> None:
    """UserError before the first evaluation: bad folders, a data set without domains, seen ones that are not tested."""
    for folder in (folder for folders in job.models.values() for folder in folders):
        if not (folder / "model.safetensors").is_file():
            raise UserError(
                f"{folder} is no folder of a trained head (model.safetensors is missing); name WORK_DIR/model"
            )
    for name, folders in job.models.items():
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise UserError(f"{name} has a folder twice; give one folder of a trained head per seed")
    if unknown := [domain for domain in job.seen if domain not in job.domains]:
        raise UserError(f"--seen names {', '.join(unknown)}, which --domains does not; name tested domains alone")
    dataset = load_config(job.config, Overrides(job.options)).test_dataloader.dataset
    target = find_type(dataset.type)
    if target is None or not signature_of(target).accepts("domain"):
        name = getattr(target, "__name__", dataset.type)
        raise UserError(
            f"the test data set of {job.config} is {name}, which has no domains; use one of WorldScenes or StreetScenes"
        )
