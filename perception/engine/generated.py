"""The samples of a folder that `perception generate` made, as pairs of image and label map to train on."""

from __future__ import annotations

from pathlib import Path

from perception.data.segmentation_folder import LabelledImage
from perception.engine.manifest import DONE, manifest_path, part_paths, read_manifest
from perception.errors import UserError
from perception.generation.catalogue import CARD
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE

ACCEPTED, FILTERED_LABELS = "accepted.txt", "labels_filtered/{}_labelTrainIds.png"  # of `perception score`


def generated_images(folder: str | Path, filtered: str | Path | None = None) -> list[LabelledImage]:
    """Finished samples in the order of the manifest.

    Args:
        folder: OUT of `perception generate`.
        filtered: OUT of `perception score` on it: its accepted samples alone, with its filtered label maps.

    Raises:
        UserError: the folder is not a finished job, holds no sample, or lacks a file of one.
    """
    root = Path(folder)
    _check_finished(root)
    ids = [record["id"] for record in read_manifest(root) if record["status"] == DONE]
    place, labels = LABEL_PLACE, root
    if filtered is not None:
        labels = Path(filtered)
        ids = _accepted(labels, ids, root)
        place = FILTERED_LABELS if (labels / "labels_filtered").is_dir() else place
        labels = labels if place is FILTERED_LABELS else root
    pairs = [LabelledImage(key, root / IMAGE_PLACE.format(key), labels / place.format(key)) for key in ids]
    if not pairs:
        raise UserError(
            f"{filtered or root} has no finished sample to train on; see {manifest_path(root)} for the reasons"
        )
    missing = [path for pair in pairs for path in (pair.image, pair.labels) if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} files of the samples are missing, first {missing[0]}; run the job again to make them anew"
        )
    return pairs


def _check_finished(root: Path) -> None:
    if not root.is_dir():
        raise UserError(
            f"{root} does not exist; make it with `perception generate --out {root}`, or name another folder"
        )
    if not (root / "job.json").is_file():
        raise UserError(f"{root} is no folder of `perception generate` (job.json is missing); check the path")
    if part_paths(root) or not manifest_path(root).is_file() or not (root / CARD).is_file():
        raise UserError(
            f"the job that writes {root} did not finish; run the same `perception generate` command again first"
        )


def _accepted(filtered: Path, ids: list[str], root: Path) -> list[str]:
    """The ids that `perception score` let pass, in the order of `ids`."""
    path = filtered / ACCEPTED
    if not path.is_file() or part_paths(filtered):
        raise UserError(f"{filtered} is no finished folder of `perception score` ({ACCEPTED} is missing); run it first")
    passed = set(path.read_text(encoding="utf-8").split("\n")) - {""}
    if strangers := sorted(passed - set(ids)):
        raise UserError(f"{path} names the sample {strangers[0]}, which is not in {root}; score this folder anew")
    return [key for key in ids if key in passed]
