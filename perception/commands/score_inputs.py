"""From parsed arguments to the setup of `perception score`; faults of the job end here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from perception.backbones.devices import pick_device
from perception.commands.arguments import local_device
from perception.commands.models import check_classes, chosen_artifact, revisions_of
from perception.curation.consistency import ConsistencyPredictor
from perception.curation.pairs import Labelled, WorldScene, file_pairs, set_pairs
from perception.curation.reference import read_reference
from perception.curation.setup import Head, ScoreOptions, Setup
from perception.data.world import CLASSES
from perception.encoders.artifact import Artifact
from perception.errors import UserError
from perception.generation.finished_set import check_set_classes
from perception.metrics.component_recall import OBJECTS, ComponentRecall


def read_setup(args: argparse.Namespace) -> tuple[Setup, Artifact]:
    """Read folders and the head's artifact, load nothing. Raises UserError for whatever concerns the whole job."""
    artifact = _artifact(args)
    names = artifact.config["classes"]
    check_classes(args.objects, artifact)
    ComponentRecall.empty(args.objects, args.areas)  # refuses bounds that do not ascend
    pairs = set_pairs(args.folder)
    if (args.folder / "job.json").is_file():  # any other set does not say its classes
        check_set_classes(args.folder, names, str(artifact.folder))
    reference: Sequence[Labelled] = ()
    if args.reference:
        reference = file_pairs(*args.reference)
    if args.reference_world:
        reference = _world(args, artifact)
    known = read_reference(args.class_loss, names) if args.class_loss else None
    head = _head(args, artifact)
    if known is not None and known.head != head.identity:
        raise UserError(
            f"{args.class_loss} was measured with the head {_words(known.head)}, but this one is "
            f"{_words(head.identity)}; measure it again with --reference"
        )
    return Setup(head, args.folder, pairs, reference, known, _options(args, head.classes)), artifact


def _options(args: argparse.Namespace, classes: Sequence[str]) -> ScoreOptions:
    objects = args.objects or [name for name in OBJECTS if name in classes] or classes
    return ScoreOptions(
        {name: classes.index(name) for name in objects},
        args.areas,
        1.25 if args.alpha is None else args.alpha,
        args.metric,
        args.min_score,
        args.max_count,
        args.count_by,
    )


def _head(args: argparse.Namespace, artifact: Artifact) -> Head:
    identity = {"model": artifact.digest(), "size": args.size and list(args.size)}
    load = partial(_load, artifact, args.backbone, args.size, args.device)
    return Head(artifact.folder.name, list(artifact.config["classes"]), identity, load)


def _load(
    artifact: Artifact, backbone: str | None, size: tuple[int, int] | None, device: str | None
) -> tuple[ConsistencyPredictor, dict[str, str]]:
    """The judge, and the commits of what came from the hub. Raises UserError for a head that is told captions."""
    place = pick_device(device or local_device())
    network = artifact.load(backbone).to(place)
    vpd = getattr(network.segmentor.backbone, "vpd", None)
    if vpd is not None and vpd.conditioning.per_image:
        raise UserError(f"{artifact.folder} is told a caption for each image; score with one on class names")
    return ConsistencyPredictor(network, size, place), revisions_of(artifact, network)


def _artifact(args: argparse.Namespace) -> Artifact:
    """The artifact of a semantic head: the shipped one, a folder, or owner/name of the hub."""
    artifact = chosen_artifact(args, "semantic")
    if artifact.task != "semantic":
        raise UserError(
            f"{artifact.folder} is a {artifact.task} model, which labels no classes; name a semantic head with --model."
        )
    return artifact


def _world(args: argparse.Namespace, artifact: Artifact) -> list[WorldScene]:
    if tuple(artifact.config["classes"]) != CLASSES:
        raise UserError(
            f"{artifact.folder} was not trained on the {len(CLASSES)} Cityscapes classes that the miniature world has; "
            "use --reference IMAGES LABELS"
        )
    height, width = args.size or artifact.config.get("image_size") or (128, 128)
    return [WorldScene(index, (height, width)) for index in range(args.reference_world)]


def _words(head: Mapping[str, Any]) -> str:
    return f"{head.get('model')} at size {head.get('size')}"
