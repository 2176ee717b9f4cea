"""`perception generate --verify FOLDER`: is every file of a generated data set there, whole, and does it fit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.files import file_hash
from perception.data.picture_files import DAMAGED, open_picture
from perception.errors import UserError, printable
from perception.generation.finished_set import check_samples, listed_ids, set_classes
from perception.generation.labels import check_label_map, class_counts
from perception.generation.publishing.catalogue import CARD, SAMPLES, SHEET, samples_file, statistics_files
from perception.generation.publishing.prompt_report import PromptReport
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE
from perception.jobs.manifest import DONE, manifest_path, missing_outputs, part_paths, read_manifest

_MOST_PROBLEMS = 20  # printed


@dataclass(frozen=True)
class Verification:
    """What was found."""

    samples: int  # finished
    failed: int  # manifest lines that say why there is no sample
    problems: tuple[str, ...]  # one sentence each
    prompts: PromptReport

    def render(self) -> str:
        """What the prompts say, problems, then one line of counts."""
        shown = [self.prompts.render(), *map(printable, self.problems[:_MOST_PROBLEMS])]
        if len(self.problems) > _MOST_PROBLEMS:
            shown.append(f"... and {len(self.problems) - _MOST_PROBLEMS} more")
        verdict = f"{len(self.problems)} problems" if self.problems else "all files are whole and fit"
        return "\n".join([*shown, f"{self.samples} samples, {self.failed} failed: {verdict}"])


def verify(root: Path) -> Verification:
    """Hash every file of the manifest, compare image and label map, look for files that no line knows.

    Raises:
        UserError: the folder holds no generated data set.
    """
    names = set_classes(root)
    classes = len(names)
    if not manifest_path(root).exists():
        raise UserError(f"{root} has no manifest.jsonl: the job did not finish; run the same command again first")
    records = list(read_manifest(root))
    done = [record for record in records if record["status"] == DONE]
    check_samples(root, done, classes)
    belonging = _belonging(root, done)
    problems = [f"{path.name}: the job did not finish; run the same command again" for path in part_paths(root)]
    for record in belonging:
        problems += _sample_problems(root, record, classes)
    problems += _strangers(root, done)
    problems += _beside(root, belonging)
    return Verification(len(belonging), len(records) - len(done), tuple(problems), PromptReport.of(belonging, names))


def _belonging(root: Path, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the samples that the job left out because their files were gone."""
    if not (root / SAMPLES).is_file():
        return done
    listed = set(listed_ids(root / SAMPLES))
    return [record for record in done if record["id"] in listed or not missing_outputs(root, record)]


def _sample_problems(root: Path, record: Mapping[str, Any], classes: int) -> list[str]:
    damaged = [text for path in record["output"] if (text := _file_problem(root / path, record["hashes"][path]))]
    try:
        return [f"{record['id']}: {text}" for text in damaged or _fit_problems(root, record, classes)]
    except DAMAGED as error:
        return [f"{record['id']}: image or label map is damaged ({error}); delete it and run the job again"]


def _file_problem(path: Path, expected: str) -> str | None:
    if path.exists() and not path.is_file():
        return f"{path.name} is no regular file; delete it and run the job again"
    try:
        whole = file_hash(path) == expected
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except UserError as error:
        return str(error)
    return None if whole else f"{path.name} has other bytes than were written; delete it and run the job again"


def _fit_problems(root: Path, record: Mapping[str, Any], classes: int) -> Iterator[str]:
    with (
        open_picture(root / IMAGE_PLACE.format(record["id"])) as image,
        open_picture(root / LABEL_PLACE.format(record["id"])) as picture,
    ):
        labels = np.asarray(picture)
        if image.mode != "RGB" or image.size != picture.size or list(labels.shape) != record["size"]:
            yield (
                f"the image is {image.mode} of {image.size[0]} x {image.size[1]} pixels and its label map "
                f"{picture.size[0]} x {picture.size[1]}; the manifest says {record['size'][1]} x {record['size'][0]}"
            )
    try:
        check_label_map(labels, classes)
    except UserError as error:
        yield str(error)
        return
    if {str(label): count for label, count in class_counts(labels, classes).items()} != record["class_pixels"]:
        yield "the label map has other class counts than the manifest says"


def _strangers(root: Path, done: list[dict[str, Any]]) -> list[str]:
    known = {path for record in done for path in record["output"]}
    found = (path for place in ("images", "labels") for path in (root / place).rglob("*") if path.is_file())
    names = sorted(path.relative_to(root).as_posix() for path in found)
    return [f"{name} is in no line of the manifest" for name in names if name not in known]


def _beside(root: Path, done: list[dict[str, Any]]) -> list[str]:
    """Statistics and a list that do not belong to the samples, and what is missing beside them."""
    if not done:
        return []
    problems = [f"{name} is missing" for name in (SHEET, CARD) if not (root / name).is_file()]
    for name, content in (statistics_files(done) | samples_file(done)).items():
        if not (root / name).is_file() or (root / name).read_bytes() != content:
            problems.append(f"{name} does not belong to these samples")
    return [f"{text}; run the job again to write it anew" for text in problems]
