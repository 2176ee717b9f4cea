"""What `perception classify` prints at the end: labels of a few images, and accuracies where the truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.engine.items import Item
from perception.engine.manifest import DONE, read_manifest

MOST_LINES = 20  # images listed one by one


def report(out: Path, items: Sequence[Item]) -> str:
    """Summarise the finished ones among `items`; "" when there are none."""
    wanted = {item.id for item in items}
    records = [record for record in read_manifest(out) if record["status"] == DONE and record["id"] in wanted]
    if not records:
        return ""
    lines = label_lines(records[:MOST_LINES])
    if len(records) > MOST_LINES:
        lines.append(f"... and {len(records) - MOST_LINES} more")
    labelled = [record for record in records if "truth" in record]
    return "\n".join([*lines, "", *accuracy_table(labelled), *_calibration(labelled)] if labelled else lines)


def label_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """One line per image: id, label, and its lead over the runner-up in standard errors."""
    width = max(len(record["id"]) for record in records)
    return [f"{record['id']:<{width}}  {record['label']}{_lead(record)}" for record in records]


def accuracy_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Images and accuracy per true class, then top-1 and the mean over classes."""
    images = Counter(record["truth"] for record in records)
    hits = Counter(record["truth"] for record in records if record["correct"])
    rates = {name: hits[name] / count for name, count in sorted(images.items())}
    width = max(map(len, (*rates, "mean per class")))
    rows = [(name, images[name], rate) for name, rate in rates.items()]
    rows += [
        ("top-1", len(records), hits.total() / len(records)),
        ("mean per class", len(records), sum(rates.values()) / len(rates)),
    ]
    header = f"{'class':<{width}}  images  accuracy"
    return [header, *(f"{name:<{width}}  {count:6d}  {100 * rate:7.2f}%" for name, count, rate in rows)]


def _lead(record: dict[str, Any]) -> str:
    if not record["margin_se"]:
        return ""
    return f"  ({record['margin'] / record['margin_se']:.1f} standard errors ahead of {record['runner_up']})"


def _calibration(records: Sequence[dict[str, Any]]) -> list[str]:
    """How far the probabilities can be believed, when there are any."""
    if not all("probabilities" in record for record in records):
        return []
    import torch

    from perception.metrics.calibration import Calibration

    names = list(records[0]["probabilities"])
    probabilities = torch.tensor([list(record["probabilities"].values()) for record in records], dtype=torch.float64)
    state = Calibration.of(probabilities, torch.tensor([names.index(record["truth"]) for record in records]))
    confidence = probabilities.max(dim=1).values.mean().item()
    return [f"mean confidence {confidence:.2%}, expected calibration error {state.ece:.2%}"]
