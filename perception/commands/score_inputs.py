"""From parsed arguments to the items and predictors of `perception score`; faults of the job end here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perception.commands.models import (
    Artifact,
    check_classes,
    found_model,
    load_semantic,
    place,
    read_artifact,
    revisions_of,
)
from perception.commands.score_job import ReferenceFiles, ScoreFiles
from perception.commands.score_pairs import FilePair, Labelled, WorldScene, file_pairs, set_pairs
from perception.commands.score_reference import Reference, read_reference
from perception.data.world import CLASSES
from perception.engine.generated import check_set_classes
from perception.engine.items import Item
from perception.errors import UserError
from perception.metrics.component_recall import OBJECTS, ComponentRecall
from perception.segmentation.consistency import ConsistencyPredictor, loss_limits


@dataclass(frozen=True)
class Setup:
    """Everything the jobs need but the loaded head, which both of them share."""

    args: argparse.Namespace
    artifact: Artifact
    pairs: Sequence[FilePair]
    reference: Sequence[Labelled]  # empty where the losses of real images are known, or not wanted
    known: Reference | None  # those of --class-loss

    @property
    def items(self) -> list[Item]:
        """One per sample."""
        return [pair.item for pair in self.pairs]

    @property
    def classes(self) -> list[str]:
        """Class names of the head by id."""
        return list(self.artifact.config["classes"])

    @property
    def objects(self) -> dict[str, int]:
        """Class name -> id, of what is recalled by size."""
        names = self.args.objects or [name for name in OBJECTS if name in self.classes] or self.classes
        return {name: self.classes.index(name) for name in names}

    @property
    def alpha(self) -> float:
        """A pixel above this many times its class's mean loss is ignored."""
        return 1.25 if self.args.alpha is None else self.args.alpha

    @cached_property
    def head(self) -> dict[str, Any]:
        """What the losses depend on, by name."""
        return {"model": self.artifact.digest(), "size": self.args.size and list(self.args.size)}

    @cached_property
    def predictor(self) -> ConsistencyPredictor:
        """The head, loaded."""
        device = place(self.args)
        network = load_semantic(self.artifact, self.args.backbone).to(device)
        vpd = getattr(network.segmentor.backbone, "vpd", None)
        if vpd is not None and vpd.conditioning.per_image:
            raise UserError(f"{self.artifact.folder} is told a caption for each image; score with one on class names")
        self.revisions.update(revisions_of(self.artifact, network))
        return ConsistencyPredictor(network, self.args.size, device)

    @cached_property
    def revisions(self) -> dict[str, str]:
        """Commits of what came from the hub; complete once the head is loaded."""
        return dict(self.artifact.revisions)

    def measuring(self) -> ReferenceFiles:
        """The predictor of the reference job."""
        job = ReferenceFiles(self.predictor, self.reference, self.objects, self.args.areas, self.head)
        job.revisions = self.revisions
        return job

    def scoring(self, reference: Reference | None) -> ScoreFiles:
        """The predictor of the score job; without a reference nothing is filtered."""
        settings, limits = {**self.head, "alpha": None, "class_loss": None}, None
        if reference is not None:
            limits = loss_limits(reference.class_loss, self.alpha)
            settings |= {"alpha": self.alpha, "class_loss": reference.digest(self.classes)}
        job = ScoreFiles(self.predictor, self.pairs, self.objects, self.args.areas, settings, limits)
        job.revisions = self.revisions
        return job


def read_setup(args: argparse.Namespace) -> Setup:
    """Read folders and the head's config, load nothing. Raises UserError for whatever concerns the whole job."""
    artifact = _head(args)
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
    setup = Setup(args, artifact, pairs, reference, known)
    if known is not None and known.head != setup.head:
        raise UserError(
            f"{args.class_loss} was measured with the head {_words(known.head)}, but this one is {_words(setup.head)}; "
            "measure it again with --reference"
        )
    return setup


def _head(args: argparse.Namespace) -> Artifact:
    """The artifact of a semantic head: the shipped one, a folder, or owner/name of the hub."""
    artifact = read_artifact(found_model(args), "semantic")
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
