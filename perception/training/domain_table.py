"""A table of models (several seeds each) by domains: mIoU per cell, means, and how much the seeds scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any


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
