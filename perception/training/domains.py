"""Evaluates trained segmentors on several domains; finished evaluations are not repeated.

The table has a row per model (several seeds each) and a column per domain: mIoU, means, standard deviation over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from perception.data.files import file_hash, write_atomic
from perception.data.street_sets import street_root
from perception.errors import UserError
from perception.training.app import test
from perception.training.config.check import find_type
from perception.training.config.load import Overrides, load_config
from perception.training.config.signature import signature_of
from perception.training.data.records import StreetScenes


@dataclass(frozen=True)
class Cell:
    """One figure over the seeds of a model, in percent."""

    values: tuple[float, ...]  # one per seed

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN for none."""
        return fmean(self.values) if self.values else math.nan

    @property
    def std(self) -> float | None:
        """Standard deviation of a sample (n - 1); None for a single seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" +- {self.std:.2f}")


@dataclass(frozen=True)
class DomainTable:
    """mIoU in percent: model -> domain -> one value per seed, in the same order in every domain."""

    scores: Mapping[str, Mapping[str, Sequence[float]]]
    seen: Sequence[str] = ()  # domains that the models were trained on; "mean" leaves them out

    @property
    def domains(self) -> list[str]:
        """In the order they were given."""
        return list(next(iter(self.scores.values())))

    @property
    def unseen(self) -> list[str]:
        """The domains that count for "mean": those not seen, or all where all are."""
        return [domain for domain in self.domains if domain not in self.seen] or self.domains

    def rows(self) -> dict[str, dict[str, Cell]]:
        """Model -> the domains and "mean", the mean over the unseen domains of each seed."""
        return {
            model: {domain: Cell(tuple(values)) for domain, values in row.items()}
            | {"mean": Cell(tuple(map(fmean, zip(*(row[domain] for domain in self.unseen), strict=True))))}
            for model, row in self.scores.items()
        }

    def markdown(self) -> str:
        """A table with models as rows; below the first row, the difference of each mean to that of the first model."""
        rows = self.rows()
        first = next(iter(rows.values()))["mean"].mean
        names = [f"{domain} (seen)" if domain in self.seen else domain for domain in self.domains]
        lines = [_line(["model", "seeds", *names, "mean of unseen" if self.seen else "mean", "gain"])]
        lines.append("|---" * (len(names) + 4) + "|")
        for number, (model, row) in enumerate(rows.items()):
            gain = "" if number == 0 else f"{row['mean'].mean - first:+.2f}"
            cells = [str(cell) for cell in row.values()]
            lines.append(_line([model, str(len(row["mean"].values)), *cells, gain]))
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Every cell with its values, mean and standard deviation."""
        return {
            "seen": list(self.seen),
            "unseen": self.unseen,
            "models": {
                model: {
                    name: {"mean": cell.mean, "std": cell.std, "values": list(cell.values)}
                    for name, cell in row.items()
                }
                for model, row in self.rows().items()
            },
        }


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


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
