"""From parsed arguments to the items and the predictor of a generate job; config faults end here, before any load."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perception.backbones.shipped import MINI
from perception.commands.arguments import comma_list, load_backbone_from
from perception.commands.generate.options import generation_options
from perception.commands.generate.statistics import class_statistics
from perception.curation.hardness import read_counts
from perception.data.documents import read_document
from perception.data.inputs import read_text
from perception.errors import UserError
from perception.generation.domains import own_templates, templates_of
from perception.generation.generator import DETAIL_RADIUS, SceneGenerator
from perception.generation.job import GenerateJob
from perception.generation.labels import CITYSCAPES, IGNORE, Vocabulary
from perception.generation.options import GenerationOptions
from perception.generation.prompts import PromptBuilder
from perception.generation.publishing.dataset_card import licence_of, stated_licences
from perception.generation.samples import Sample, label_files, plan_samples, rare_labels
from perception.generation.scenes import check_resize
from perception.generation.styles import SHIPPED
from perception.jobs.items import Item


@dataclass(frozen=True)
class Setup:
    """Everything a job needs but the loaded models."""

    args: argparse.Namespace
    options: GenerationOptions
    vocabulary: Vocabulary
    prompts: PromptBuilder
    samples: Sequence[Sample]
    licences: Mapping[str, Any]

    @property
    def items(self) -> list[Item]:
        """One per sample."""
        return [Item(sample.id, sample.path) for sample in self.samples]

    def build(self) -> GenerateJob:
        """The predictor, with its models loaded."""
        args = self.args
        generator = SceneGenerator(
            load_backbone_from(args),
            args.control,
            self.options,
            self.vocabulary,
            self.prompts,
            resize=args.resize,
            detail_radius=args.detail_radius or DETAIL_RADIUS,
            rows=args.rows,
        )
        settings = {
            "classes": list(self.vocabulary.names),
            **(
                {"ids": {str(there): here for there, here in self.vocabulary.file_ids}}
                if self.vocabulary.file_ids
                else {}
            ),
            **({} if args.photos is None else {"detail_radius": generator.detail_radius}),
            **({} if args.resize == (1.0,) else {"resize": list(args.resize)}),
            "domains": list(args.domains),
            "templates": self.prompts.templates,
            "domain_probability": self.prompts.probability,
            "dtype": args.dtype,
            **_given(args, "vae", "random_init_seed"),
            **({"compile": True} if args.compile else {}),  # equal up to rounding
            "seed": args.seed,
            "licences": dict(self.licences),
        }
        return GenerateJob(generator, self.samples, settings, args.control_images, args.photos)


def read_setup(args: argparse.Namespace) -> Setup:
    """Check the options, then list the label maps. Raises UserError for whatever concerns the whole job."""
    options = generation_options(args)
    check_resize(args.resize)
    vocabulary = _with_ids(_vocabulary(args.classes), args.ids)
    own = own_templates(args.template)
    probability = {} if args.domain_probability is None else {"probability": args.domain_probability}
    prompts = PromptBuilder(vocabulary.names, templates_of(args.domains, own), **probability)
    around = None if args.around is None else vocabulary.id_of(args.around)
    licences = _licences(args)
    _check_channels(args.control, vocabulary)
    if args.photos is not None and not args.photos.is_dir():
        raise UserError(f"{args.photos} is not a folder; --photos expects one with the photos of the label maps")
    _check_outside(args)
    files = label_files(args.labels)
    labels: dict[str, int | None] = dict.fromkeys(files, around)
    if args.rare_classes:
        statistics = class_statistics(args, files, vocabulary)
        labels = rare_labels(statistics, files, args.count, args.seed, **_given(args, "temperature", "min_pixels"))
    per_label = args.per_label
    if isinstance(per_label, Path):
        per_label = read_counts(per_label, files, labels)
    samples = plan_samples(files, per_label, args.domains, args.seed, labels)
    return Setup(args, options, vocabulary, prompts, samples, licences)


def _check_outside(args: argparse.Namespace) -> None:
    """UserError when OUT is at or below a folder of inputs: the next run would take the job's own files for them."""
    folders = [("--labels", args.labels), ("--photos", args.photos)]
    folders += [("--control-images", folder) for folder in args.control_images]
    for option, folder in folders:
        if args.out is not None and folder is not None and args.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {args.out} lies in {option} {folder}, whose files would then include the job's own; choose a "
                "folder outside of it"
            )


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments among `names` that have no default and were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _vocabulary(classes: str | None) -> Vocabulary:
    if classes is None:
        return CITYSCAPES
    path = Path(classes)
    in_file = os.path.exists(path) and not path.is_dir()
    names = read_text(path, "the class names ").splitlines() if in_file else comma_list(classes)
    return Vocabulary(tuple(name.strip() for name in names if name.strip()))


def _with_ids(vocabulary: Vocabulary, pairs: Sequence[str]) -> Vocabulary:
    """The vocabulary told what 'ID=CLASS' or 'ID=ignore' means in the files."""
    found: dict[int, int] = {}
    for pair in pairs:
        number, separator, name = (part.strip() for part in pair.partition("="))
        if not (separator and number.isdecimal() and int(number) < IGNORE and int(number) not in found):
            raise UserError(
                f"--ids has {pair!r}; expected each id of the files once, such as 0=sky,1=building,4=ignore"
            )
        found[int(number)] = IGNORE if name == "ignore" else vocabulary.id_of(name)
    return replace(vocabulary, file_ids=tuple(sorted(found.items())))


def _licences(args: argparse.Namespace) -> dict[str, Any]:
    stated = stated_licences(tuple(args.licence))
    return {
        "backbone": stated.get("backbone") or licence_of(args.backbone),
        "controls": [stated.get("control") or licence_of(name) for name in args.control],
        "labels": stated.get("labels") or licence_of(args.labels),
        **({} if args.vae is None else {"autoencoder": stated.get("autoencoder") or licence_of(args.vae)}),
        **({} if args.photos is None else {"photos": stated.get("photos") or licence_of(args.photos)}),
    }


def _check_channels(controls: Sequence[str], vocabulary: Vocabulary) -> None:
    """UserError when the first control network is on disk and made for another number of classes."""
    folder = MINI.with_name(controls[0]) if controls[0] in SHIPPED else Path(controls[0]).expanduser()
    try:
        channels = read_document(folder / "config.json").get("conditioning_channels")
    except (OSError, ValueError, AttributeError):  # of the hub, or broken: said when it is loaded
        return
    if channels != vocabulary.channels:
        raise UserError(
            f"the control network {controls[0]} takes {channels} channels, but {len(vocabulary)} classes and "
            f'"ignore" make {vocabulary.channels}; use one trained on these classes, or name its own with --classes'
        )
