"""Number of samples per label map: more for those that a segmentor finds hard (FreeMask, NeurIPS 2023)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from perception.data.inputs import read_json
from perception.errors import UserError

RULES = ("rank", "loss")
MOST = 20  # samples of the hardest label map


def mean_hardness(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(label map, loss of one of its images) -> mean loss of every label map, sorted by name."""
    losses: dict[str, list[float]] = {}
    for source, loss in rows:
        losses.setdefault(source, []).append(loss)
    return {source: math.fsum(losses[source]) / len(losses[source]) for source in sorted(losses)}


def sample_counts(hardness: Mapping[str, float], most: int = MOST, rule: str = "rank") -> dict[str, int]:
    """Label map -> number of samples, 1 to `most`, in the order given.

    "rank": ceil(most * rank / N), rank 1 for the easiest of N label maps (ties: in the order given), so that a few
    outliers do not take all. "loss": ceil(most * loss / largest loss), in proportion to the loss itself.

    Raises:
        UserError: an unknown rule, or `most` below 1.
    """
    if rule not in RULES or most < 1:
        raise UserError(
            f"the rule {rule!r} with at most {most} samples is not usable; expected {' or '.join(RULES)}, 1+"
        )
    if rule == "rank":
        order = sorted(hardness, key=lambda source: hardness[source])
        ranks = {source: rank for rank, source in enumerate(order, start=1)}
        return {source: -(-most * ranks[source] // len(order)) for source in hardness}
    largest = max(hardness.values(), default=0.0) or 1.0
    return {source: max(1, math.ceil(most * loss / largest)) for source, loss in hardness.items()}


def read_counts(path: Path, known: Collection[str], wanted: Iterable[str]) -> dict[str, int]:
    """{label map: samples} from a JSON file; 0 leaves a label map out.

    Args:
        path: the file.
        known: all label maps below the folder.
        wanted: those that need a count.
    Raises:
        UserError: the file is broken, names a label map that is not there, or none for one that is.
    """
    counts = read_json(path, "the sample counts ")
    if not isinstance(counts, dict) or not all(type(count) is int and count >= 0 for count in counts.values()):
        raise UserError(f"the sample counts {path} are no table; expected {{label map: number of samples, 0 or more}}")
    if unknown := sorted(set(counts) - set(known)):
        raise UserError(f"the sample counts {path} name {unknown[0]}, which is no label map below --labels")
    if missing := [source for source in wanted if source not in counts]:
        raise UserError(
            f"the sample counts {path} have none for {len(missing)} label maps such as {missing[0]}; add them (0: none)"
        )
    return counts
