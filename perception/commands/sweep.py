"""`perception sweep`: which block and timestep of a backbone is best for your own labelled images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perception.commands.arguments import (
    a_path,
    add_backbone_arguments,
    comma_ints,
    comma_list,
    load_backbone_from,
    positive_int,
    size_pair,
)
from perception.commands.datasets import add_dataset_arguments, dataset_items, load_dataset, refuse_without_dataset
from perception.errors import UserError, sentence_of

if TYPE_CHECKING:
    from torch import Tensor

    from perception.backbones.backbone import DiffusionBackbone
    from perception.classification.probing.features import Features
    from perception.classification.probing.probe import Cell
    from perception.jobs.items import Item

SUMMARY = "find the block and timestep whose features tell your classes apart best"
EXAMPLES = """perception sweep labelled/ --out runs/sweep                 # one sub-folder per class
perception sweep --dataset fashion_mnist --root data/fashion_mnist --backbone mini-dit --out runs/probes
perception sweep labelled/ --taps up_blocks.0,up_blocks.1 --timesteps 50,200,500 --probe linear --out runs/sweep"""
TIMESTEPS = (50, 150, 300, 500, 700)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FOLDER, what to compare, and where to write."""
    parser.add_argument("folder", nargs="?", type=a_path, metavar="FOLDER", help="one sub-folder of images per class")
    add_dataset_arguments(parser)
    group = parser.add_argument_group("sweep")
    group.add_argument(
        "--taps", type=comma_list, help="names from `perception extract --list-taps` (default: latent and all blocks)"
    )
    group.add_argument(
        "--timesteps", type=comma_ints, default=TIMESTEPS, help=f"(default: {','.join(map(str, TIMESTEPS))})"
    )
    group.add_argument(
        "--probe", type=comma_list, default=("linear", "knn"), help="of linear, ridge, knn (default: linear,knn)"
    )
    group.add_argument("--folds", type=positive_int, default=5, help="of the cross-validation (default: 5)")
    group.add_argument("--size", type=size_pair, help="side, or HEIGHTxWIDTH, in pixels (default: the model's own)")
    group.add_argument("--seed", type=int, default=0, help="of the noise and of the folds (default: 0)")
    add_backbone_arguments(parser)
    group = parser.add_argument_group("job")
    group.add_argument("--out", type=a_path, required=True, help="folder of sweep.csv, sweep.png, the feature store")
    group.add_argument("--store", type=a_path, help="a store shared with other runs (default: OUT/store)")
    group.add_argument("--batch-size", type=positive_int, default=8, help="images per step (default: 8)")
    group.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Extract, probe, and report; 1 when an image failed."""
    from perception.classification.probing.probe import check_labels, make_probe

    items = _items(args)
    check_labels([str(item.label) for item in items], args.folds)
    for name in args.probe:
        make_probe(name)
    if not args.probe:
        raise UserError("No probe was named; choose from linear, ridge, knn.")
    features, labels = _features(args, items)
    cells = _probe(args, features, labels)
    _write(args.out, cells)
    print(_report(args.out, cells, labels))
    return 0 if len(labels) == len(items) else 1


def _items(args: argparse.Namespace) -> list[Item]:
    """Labelled images of the folder or the data set. Raises UserError unless exactly one of them is named."""
    if args.dataset is not None:
        if args.folder is not None:
            raise UserError("--dataset brings its images; leave out FOLDER")
        return dataset_items(load_dataset(args))
    refuse_without_dataset(args)
    if args.folder is None:
        raise UserError("there is nothing to probe; name a folder with a sub-folder per class, or --dataset NAME")
    from perception.jobs.items import check_out, labelled_items

    check_out([args.folder], args.out)
    return labelled_items(args.folder, args.out)


def table(cells: Sequence[Cell]) -> str:
    """Accuracy [%] of every probe: one row per tap, one column per timestep."""
    found = {(cell.probe, cell.tap, cell.timestep): cell for cell in cells}
    probes, taps, timesteps = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    width = max(map(len, (*taps, *(f"{probe} probe" for probe in probes))))
    lines = []
    for probe in probes:
        lines.append(f"{probe + ' probe':<{width}}" + "".join(f"{f't={t}':>8}" for t in timesteps))
        for tap in taps:
            values = (100 * found[probe, tap, t].accuracy for t in timesteps)
            lines.append(f"{tap:<{width}}" + "".join(f"{value:8.1f}" for value in values))
        lines.append("")
    return "\n".join(lines)


def _features(args: argparse.Namespace, items: Sequence[Item]) -> tuple[Features, list[str]]:
    """Pooled features of all readable images, and their labels."""
    from perception.classification.probing.features import FeatureTable, batches, default_taps
    from perception.data.store import TensorStore
    from perception.jobs.progress import progress_bar

    backbone = load_backbone_from(args)
    labels: list[str] = []
    with TensorStore(args.store or args.out / "store") as store:
        wanted = FeatureTable(backbone, store, args.taps or default_taps(backbone), args.timesteps, args.seed)
        with progress_bar(len(items), args.progress) as advance:
            for images, hashes in batches(_images(args, backbone, items, labels), args.batch_size):
                wanted.add(images, hashes)
                advance(len(hashes), 0)
    return wanted.features(), labels


def _images(
    args: argparse.Namespace, backbone: DiffusionBackbone, items: Sequence[Item], labels: list[str]
) -> Iterator[tuple[Tensor, str]]:
    """Images and hashes of the readable items, whose labels are appended; one line on stderr for each other."""
    from perception.backbones.image_size import image_size
    from perception.data.images import content_hash, image_tensor, read_image

    size = image_size(backbone, args.size)
    for item in items:
        try:
            pixels = image_tensor(read_image(str(item.path)), size)
        except UserError as error:
            print(f"left out: {sentence_of(error)}", file=sys.stderr)
            continue
        labels.append(str(item.label))
        yield pixels, content_hash(pixels.mul(255).round().byte())


def _probe(args: argparse.Namespace, features: Features, labels: Sequence[str]) -> list[Cell]:
    from perception.classification.probing.probe import sweep
    from perception.jobs.progress import progress_bar

    cells = []
    with progress_bar(len(features) * len(args.probe), args.progress) as advance:
        for cell in sweep(features, labels, args.probe, args.folds, args.seed):
            cells.append(cell)
            advance(1, 0)
    return cells


def _write(out: Path, cells: Sequence[Cell]) -> None:
    from perception.classification.probing.probe import cells_csv, heat_map
    from perception.data.files import write_atomic

    write_atomic(out / "sweep.csv", cells_csv(cells).encode())
    write_atomic(out / "sweep.png", heat_map(cells))


def _report(out: Path, cells: Sequence[Cell], labels: Sequence[str]) -> str:
    from perception.classification.probing.probe import best_cell

    best, chance = best_cell(cells), max(map(list(labels).count, set(labels))) / len(labels)
    return (
        f"{table(cells)}\n"
        f"best: {best.tap} at timestep {best.timestep} with the {best.probe} probe, "
        f"{100 * best.accuracy:.1f} % (+- {100 * best.spread:.1f} over the folds; the largest class alone gives "
        f"{100 * chance:.1f} %)\n"
        f"{out / 'sweep.csv'}, {out / 'sweep.png'}"
    )
