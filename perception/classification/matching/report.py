"""The printed report of `perception match`: scores of examples, recall of retrieval, or the best caption per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perception.data.matching_sets import CaptionList, MatchingExample
from perception.jobs.images import listing
from perception.metrics.matching import PairScores, normalised, recall


class Matched(NamedTuple):
    """What is kept of a finished image."""

    errors: Tensor  # [captions] float64
    unconditional: float | None
    best: str  # caption

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Matched:
        """Of a manifest record."""
        errors = torch.tensor(record["errors"], dtype=torch.float64)
        return cls(errors, record["unconditional"], record["best"])


Records = Mapping[str, Matched]  # by item id


def example_ids(example: MatchingExample) -> list[str]:
    """The item ids of an example's images."""
    return [f"{example.id}/image_{j}" for j in range(len(example.images))]


def report_examples(examples: Sequence[MatchingExample], records: Records) -> list[str]:
    """Text, image and group score per tag, plain and normalised; examples with an image missing are counted out."""
    whole = [example for example in examples if all(name in records for name in example_ids(example))]
    plain, better = PairScores(), PairScores()
    for example in whole:
        errors, unconditional = _tables([records[name] for name in example_ids(example)])
        plain += PairScores.of(normalised(errors), example.tag)
        if unconditional is not None:
            better += PairScores.of(normalised(errors, unconditional), example.tag)
    lines = [f"{len(whole)} of {len(examples)} examples, percent:", *plain.lines()]
    if better.counts:
        lines += ["less the error of the empty caption:", *better.lines()]
    return lines


def report_retrieval(captions: CaptionList, records: Records) -> list[str]:
    """Recall@1, 5, 10 both ways where captions name their image, else the best caption of each image."""
    names = sorted(records)
    if not names:
        return []
    matches = torch.tensor([[_names(image, name) for name in names] for image in captions.images])  # [C, I]
    if not matches.any():
        return best_lines(records)
    errors, unconditional = _tables([records[name] for name in names])
    lines = ["by error:", *recall(normalised(errors), matches).lines()]
    if unconditional is not None:
        scores = normalised(errors, unconditional)
        lines += ["less the error of the empty caption:", *recall(scores, matches).lines()]
    return lines


def best_lines(records: Records) -> list[str]:
    """One line per image: id and best caption."""
    return listing([(name, records[name].best) for name in sorted(records)])


def _names(image: str | None, item: str) -> bool:
    """Whether the image named in a caption file is this item: its id, or the end of it."""
    return image is not None and (item == image or item.endswith(f"/{image}"))


def _tables(columns: Sequence[Matched]) -> tuple[Tensor, Tensor | None]:
    """Errors [captions, images] and, when they were asked for, unconditional errors [images]."""
    plain = [record.unconditional for record in columns]
    errors = torch.stack([record.errors for record in columns], dim=1)
    return errors, None if None in plain else torch.tensor(plain).double()
