"""Writes the statistics, preview sheet, card and list of a finished data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from perception.data.files import write_changed
from perception.errors import printable
from perception.generation.finished_set import check_samples
from perception.generation.labels import Vocabulary
from perception.generation.publishing.catalogue import CARD, SHEET, preview_sheet, samples_file, statistics_files
from perception.generation.publishing.dataset_card import dataset_card
from perception.jobs.manifest import DONE, missing_outputs, read_manifest


def finish(out: Path, vocabulary: Vocabulary) -> list[str]:
    """Write the files beside the samples; a function of manifest and samples, so a rerun writes the same bytes.

    Finished samples whose files were deleted are no part of the set.

    Returns lines to print: samples per domain and where the preview is, and how many have no files.
    """
    records = list(read_manifest(out))
    done = [record for record in records if record["status"] == DONE]
    check_samples(out, done, len(vocabulary))
    gone = {record["id"]: None for record in done if missing_outputs(out, record)}
    here = [record for record in done if record["id"] not in gone]
    files, lines = {}, []
    if here:
        files = statistics_files(here)
        files[SHEET] = preview_sheet(out, here, vocabulary)
        files[CARD] = dataset_card(here, len(records) - len(done), vocabulary.names).encode(errors="backslashreplace")
        domains = Counter(record["domain"] or "class names alone" for record in here)
        dealt = ", ".join(f"{name} {count}" for name, count in sorted(domains.items()))
        lines.append(f"{len(here)} samples in the data set ({dealt}); see {out / SHEET}")
    if gone:
        lines.append(
            f"left out: {len(gone)} samples of earlier runs whose files are gone, first {printable(next(iter(gone)))}"
        )
    for name, content in (files | samples_file(here)).items():  # the list comes last: with it the set is complete
        write_changed(out / name, content)
    return lines
