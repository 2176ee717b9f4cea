"""What completes a generated data set once its samples are there: statistics, preview sheet, data set card."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from perception.data.files import write_atomic
from perception.engine.manifest import DONE, read_manifest
from perception.generation.catalogue import CARD, SHEET, preview_sheet, statistics_files
from perception.generation.dataset_card import dataset_card
from perception.generation.labels import Vocabulary


def finish(out: Path, vocabulary: Vocabulary) -> list[str]:
    """Write the files beside the samples; a function of manifest and samples, so a rerun writes the same bytes.

    Returns lines to print: samples per domain and where the preview is; none where no sample is finished.
    """
    records = list(read_manifest(out))
    done = [record for record in records if record["status"] == DONE]
    if not done:
        return []
    files = statistics_files(done)
    files[SHEET] = preview_sheet(out, done, vocabulary)
    files[CARD] = dataset_card(done, len(records) - len(done), vocabulary.names).encode()
    for name, content in files.items():
        path = out / name
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)
    domains = Counter(record["domain"] or "class names alone" for record in done)
    dealt = ", ".join(f"{name} {count}" for name, count in sorted(domains.items()))
    return [f"{len(done)} samples in the data set ({dealt}); see {out / SHEET}"]
