"""Pixels per class of all label maps, for --rare-classes: read from --statistics FILE, else counted and kept there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from perception.data.documents import conforms
from perception.data.files import write_atomic
from perception.data.inputs import read_json
from perception.errors import UserError, printable
from perception.generation.labels import Vocabulary
from perception.generation.samples import count_labels
from perception.generation.sampling import LabelCounts, read_statistics, statistics_rows
from perception.jobs.progress import progress_bar


def class_statistics(args: argparse.Namespace, files: Mapping[str, Path], vocabulary: Vocabulary) -> list[LabelCounts]:
    """Of the file if there is one, else of the label maps `files`, less those that cannot be used.

    Raises:
        UserError: the file cannot be read or written, or none of the label maps can be used.
    """
    path: Path | None = args.statistics
    if path is not None and path.exists():
        return _read(path)
    counted = _counted(args, files, vocabulary)
    if path is not None:
        write_atomic(path, json.dumps(statistics_rows(counted), indent=0).encode() + b"\n")
    return counted


def _counted(args: argparse.Namespace, files: Mapping[str, Path], vocabulary: Vocabulary) -> list[LabelCounts]:
    unusable: list[str] = []
    first_rank = os.environ.get("RANK", "0") == "0"
    with progress_bar(len(files), args.progress and first_rank) as advance:
        counted = count_labels(files, vocabulary, unusable.append, args.workers, lambda count: advance(count, 0))
    if unusable and not counted:
        raise UserError(f"none of the {len(files)} label maps can be used; the first one: {unusable[0]}")
    if unusable and first_rank:
        print(
            f"left out: {len(unusable)} label maps that cannot be used, the first one: {printable(unusable[0])}",
            file=sys.stderr,
        )
    return counted


def _read(path: Path) -> list[LabelCounts]:
    document = read_json(path, "the class statistics ")
    try:
        if not conforms(document, [{"file": str}]):
            raise ValueError("it is no list of files with their classes")
        return read_statistics(document)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"the class statistics {path} cannot be read ({error!r}); expected a sample_class_stats.json"
        ) from error
