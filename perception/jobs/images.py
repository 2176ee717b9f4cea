"""What `segment` and `depth` share: image files in, pictures and manifest lines out, and a few lines printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from PIL import Image

from perception.data.documents import conforms
from perception.data.files import fitting
from perception.data.images import read_image
from perception.errors import UserError, printable
from perception.jobs.contract import JobOptions, Outcome
from perception.jobs.finished import Request
from perception.jobs.items import Item
from perception.jobs.manifest import DONE, read_manifest, strange_line
from perception.jobs.plan import CostPlan, measure, plan, remaining
from perception.jobs.runner import run_job

if TYPE_CHECKING:
    from perception.backbones.typicality import TypicalityMeter

MOST_LINES = 20  # images listed one by one
_LINE_BYTES = 600  # of a manifest line
_LEAST_UNLIKE, _SHARE_UNLIKE = 2, 0.1  # unlike images that are worth a line: at least so many, more than this share


class Picture(NamedTuple):
    """One image file, read."""

    id: str  # of the item
    image: Image.Image


class FileJob(Protocol):
    """A job predictor (perception.jobs.contract.JobPredictor) whose cost one call tells."""

    fingerprint: str
    options: dict[str, Any]
    device: torch.device
    evaluations: int  # rows through the denoiser per image

    def prepare(self, item: Item) -> Any:
        """Read one file."""

    def __call__(self, batch: Sequence[Any], /) -> list[Outcome]:
        """Records and files of pictures."""


class ItemReader(Protocol):
    """The reading half of a job predictor."""

    def prepare(self, item: Item) -> Any:
        """Read one file. Raises UserError when it cannot be used."""


def read_picture(item: Item) -> Picture:
    """The picture of an item. Raises UserError when it is no usable image."""
    if item.path is None:
        raise UserError(f"{item.id} has no image file.")
    return Picture(item.id, read_image(item.path))


def picture_name(item_id: str) -> str:
    """The file name of an item's picture: its id, with .png behind other suffixes, cut where it is too long."""
    return fitting(item_id if item_id.endswith(".png") else f"{item_id}.png")


def run_files(
    items: Sequence[Item],
    build: Callable[[], FileJob],
    options: JobOptions,
    line: Callable[[Mapping[str, Any]], str],  # what to print of a manifest record, behind its id
    shape: Any,  # of what `line` reads
    model: str,  # its name
    request: Request | None = None,  # as `run_job` takes it
) -> int:
    """Run the job, print results and counts once; returns its exit status.

    Raises:
        UserError: two images would be written to one picture, and what `run_job` raises.
    """
    _check_places(items)
    summary = run_job(items, build, options, request)
    if os.environ.get("RANK", "0") == "0":
        ids = {item.id for item in items}
        told = [(record["id"], line(record)) for record in finished(options.out, ids, shape)]
        print("\n".join([*listing(told), *unlike_lines(options.out, ids, model, "--model"), summary.render()]))
    return summary.exit_code


def _check_places(items: Sequence[Item]) -> None:
    """UserError where two images would have one picture, or one the name of a folder that another's lies in."""
    names: dict[str, str] = {}
    for item in items:
        other = names.setdefault(picture_name(item.id), item.id)
        if other != item.id:
            raise UserError(
                f"{other} and {item.id} would have one result, {picture_name(item.id)}; rename one of them."
            )
    for name, key in names.items():
        folder = next((str(parent) for parent in PurePosixPath(name).parents if str(parent) in names), None)
        if folder is not None:
            raise UserError(
                f"the result of {names[folder]} would be {folder}, the folder of that of {key}; rename one of them."
            )


def plan_files(job: FileJob, items: Sequence[Item], out: Path | None) -> CostPlan:
    """What the job would cost: its first readable image, measured and multiplied. Nothing is written.

    A job of files takes them through the network one by one, whatever its batch size.

    Raises:
        UserError: no image can be read.
    """
    problems: list[str] = []
    picture = next(usable(job, items, problems.append), None)
    if picture is None:
        raise UserError(f"None of the {len(items)} images can be read; the first: {problems[0]}")
    todo = remaining(items, out)
    outcomes: list[Outcome] = []
    measured = measure(lambda: outcomes.extend(job([picture])), job.device, once=todo <= 1)
    written = _LINE_BYTES + sum(map(len, outcomes[0].files.values()))
    return plan(measured, todo, batch_size=1, evaluations=job.evaluations, disk_bytes=written)


def usable(job: ItemReader, items: Sequence[Item], unusable: Callable[[str], None]) -> Iterator[Any]:
    """What `prepare` makes of the items that it can read; `unusable` is told why of the others."""
    for item in items:
        try:
            yield job.prepare(item)
        except UserError as error:
            unusable(str(error))


def finished(out: Path, ids: Container[str], shape: Any) -> Iterator[dict[str, Any]]:
    """The manifest records of finished items among `ids`, one at a time: all of them may not fit into memory.

    Raises UserError for one that has not the shape (`perception.data.documents`) of what is read of it.
    """
    for record in read_manifest(out):
        if record["status"] == DONE and record["id"] in ids:
            if not conforms(record, shape):
                raise strange_line(out, record["id"])
            yield record


def listing(told: Sequence[tuple[str, str]]) -> list[str]:
    """Item ids and what to tell of them, a line each for the first, and how many there are beyond."""
    told = [(printable(name), printable(text)) for name, text in told]
    width = max((len(name) for name, _ in told[:MOST_LINES]), default=0)
    lines = [f"{name:<{width}}  {text}" for name, text in told[:MOST_LINES]]
    return [*lines, *([f"... and {len(told) - MOST_LINES} more"] if len(told) > MOST_LINES else [])]


def marks(meter: TypicalityMeter | None, image: Image.Image) -> dict[str, Any]:
    """`typicality` and `unlike` of a manifest line; nothing for a model that does not know its own pictures."""
    return {} if meter is None else meter(meter.pixels(image)).record()


def unlike_lines(
    out: Path,
    ids: Container[str],  # of the job's items
    model: str,  # its name
    option: str,  # of the command, that names another one
) -> list[str]:
    """The line, from the manifest, so that a resumed job says the same; none where few pictures are unlike."""
    seen = [mark for record in finished(out, ids, {"unlike?": bool}) if (mark := record.get("unlike")) is not None]
    unlike = seen.count(True)
    if unlike < _LEAST_UNLIKE or unlike <= _SHARE_UNLIKE * len(seen):
        return []
    return [
        f"{unlike} of {len(seen)} images ({100 * unlike / len(seen):.0f} %) are unlike anything that {model} has seen, "
        f'and its answers about them mean little ("unlike" in the manifest); name a model of such images with {option}.'
    ]
