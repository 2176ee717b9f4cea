"""The finished samples of a folder that `perception generate` made, and pairs to train on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.data import world
from perception.data.documents import conforms
from perception.data.segmentation_folder import LabelledFiles, LabelledImage
from perception.errors import UserError
from perception.generation.publishing.catalogue import SAMPLES
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE
from perception.jobs.folder import SETTINGS, read_settings
from perception.jobs.manifest import (
    DONE,
    is_whole,
    manifest_path,
    missing_outputs,
    part_paths,
    read_manifest,
    strange_line,
)

ACCEPTED, FILTERED_LABELS = "accepted.txt", "labels_filtered/{}_labelTrainIds.png"  # of `perception score`
_PLACES = (IMAGE_PLACE, LABEL_PLACE)
_SAMPLE = {  # fields of a finished sample's manifest line that others read
    "source": str,
    "domain": (str, None),
    "prompt": str,
    "size": [int, int],
    "class_pixels": {str: int},
    "hashes": {str: str},
    "sampler": {str: object},
    "model": {"backbone": str, "backbone_fingerprint": str, "controls": [str], "control_fingerprints": [str]},
    "licences": {"backbone": str, "controls": [str], "labels": str, "autoencoder?": str, "photos?": str},
    "versions?": {str: str},
}


class GeneratedScenes(LabelledFiles):
    """A source: the finished samples of a folder made by `perception generate`, 19 Cityscapes classes.

    Raises:
        UserError: the set has other classes, the job did not finish, or files are missing.
    """

    metainfo: Mapping[str, Any] = {"classes": world.CLASSES, "palette": [list(c) for c in world.PALETTE]}

    def __init__(
        self,
        folder: str | Path,  # OUT of `perception generate`
        filtered: str | Path | None = None,  # OUT of `perception score`: accepted samples alone, its label maps
    ) -> None:
        check_set_classes(Path(folder), self.metainfo["classes"], type(self).__name__)
        super().__init__(generated_images(folder, filtered))


def generated_images(folder: str | Path, filtered: str | Path | None = None) -> list[LabelledImage]:
    """Finished samples in the order of the manifest.

    Args:
        folder: OUT of `perception generate`.
        filtered: OUT of `perception score` on it: its accepted samples alone, with its filtered label maps.

    Raises:
        UserError: what `finished_samples` raises, and no sample, or a filtered label map missing, with `filtered`.
    """
    root = Path(folder)
    ids = [record["id"] for record in finished_samples(root)]
    place, labels = LABEL_PLACE, root
    if filtered is not None:
        accepted = _accepted(Path(filtered), ids, root)
        if not accepted:
            raise UserError(f"{filtered} accepts no sample of {root}; score it again with a lower --min-score")
        ids = accepted
        if (Path(filtered) / "labels_filtered").is_dir():
            place, labels = FILTERED_LABELS, Path(filtered)
    pairs = [LabelledImage(key, root / IMAGE_PLACE.format(key), labels / place.format(key)) for key in ids]
    _check_whole([pair.labels for pair in pairs if not is_whole(pair.labels)])
    return pairs


def finished_samples(root: Path) -> list[dict[str, Any]]:
    """Manifest lines of the samples that a finished job of `perception generate` lists in samples.txt, in that order.

    Raises:
        UserError: another folder, the job did not finish or made no sample, or the line or a file of one is missing.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} does not exist; make it with `perception generate --out {root}`, or name another folder"
        )
    set_classes(root)
    if part_paths(root) or not all((root / name).is_file() for name in (manifest_path(root).name, SAMPLES)):
        raise UserError(
            f"the job that writes {root} did not finish; run the same `perception generate` command again first"
        )
    lines = {record["id"]: record for record in read_manifest(root) if record["status"] == DONE}
    ids = listed_ids(root / SAMPLES)
    if not ids:
        raise UserError(f"{root} holds no finished sample; its {manifest_path(root).name} says why")
    if unknown := [key for key in ids if key not in lines]:
        raise UserError(
            f"{manifest_path(root)} lacks the lines of {len(unknown)} samples, first {unknown[0]}; run the job again "
            "to make them anew"
        )
    samples = [lines[key] for key in ids]
    _check_whole([path for record in samples for path in missing_outputs(root, record)])
    return samples


def set_classes(root: Path) -> tuple[str, ...]:
    """Class names of a generated set by id. Raises UserError for a folder of something else."""
    try:
        options = read_settings(root)[1]
    except UserError as error:
        raise UserError(f"{root} is no folder of `perception generate` ({error}); check the path") from error
    if not conforms(options, {"classes": [str]}):
        raise UserError(f"{root} is no folder of `perception generate` ({SETTINGS} names no classes); check the path")
    return tuple(options["classes"])


def is_sample(record: Mapping[str, Any], classes: int) -> bool:
    """Whether the line of a finished item has what `perception generate` writes of a sample."""
    if not conforms(record, _SAMPLE):
        return False
    model, licences = record["model"], record["licences"]
    return (
        set(record["class_pixels"]) <= set(map(str, range(classes)))
        and set(record["hashes"]) == set(record["output"]) == {place.format(record["id"]) for place in _PLACES}
        and len(model["controls"]) == len(model["control_fingerprints"]) == len(licences["controls"])
        and ("autoencoder" not in licences or isinstance(model.get("vae"), str))
        and _is_text(json.dumps(record, ensure_ascii=False))
    )


def check_samples(root: Path, records: Iterable[Mapping[str, Any]], classes: int) -> None:
    """UserError for a finished line that `perception generate` has not written so."""
    for record in records:
        if not is_sample(record, classes):
            raise strange_line(root, record["id"])


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON knows half characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def check_set_classes(root: Path, names: Sequence[str], reader: str) -> None:
    """UserError unless a generated set has the classes of `reader`, `names` by id; case, _ and - do not matter."""
    wanted = set_classes(root)
    if len(names) != len(wanted):
        raise UserError(
            f"{reader} has {len(names)} classes, but the data set {len(wanted)} ({root}); use one of the same classes"
        )
    for label, (have, want) in enumerate(zip(names, wanted, strict=True)):
        if _plain(have) != _plain(want):
            raise UserError(
                f"class {label} of {reader} is {have!r}, but {want!r} of the data set {root}; use one of the same "
                "classes, in their order"
            )


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def _check_whole(missing: Sequence[Path]) -> None:
    if missing:
        raise UserError(
            f"{len(missing)} files of the samples are missing or empty, first {missing[0]}; run the job again to make "
            "them anew"
        )


def _accepted(filtered: Path, ids: list[str], root: Path) -> list[str]:
    """The ids that `perception score` let pass, in the order of `ids`."""
    path = filtered / ACCEPTED
    if not path.is_file() or part_paths(filtered):
        raise UserError(f"{filtered} is no finished folder of `perception score` ({ACCEPTED} is missing); run it first")
    passed = set(listed_ids(path))
    if strangers := sorted(passed - set(ids)):
        raise UserError(f"{path} names the sample {strangers[0]}, which is not in {root}; score this folder anew")
    return [key for key in ids if key in passed]


def listed_ids(path: Path) -> list[str]:
    """The sample ids of a file that holds one a line."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the job again to write it anew") from error
