"""The match job: image files in, errors of their captions out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.image_size import image_size
from perception.backbones.typicality import TypicalityMeter
from perception.classification.matching.matcher import ImageCaptionMatcher
from perception.classification.noise import NoiseSource, SeededNoise, read_noise
from perception.classification.transforms import ClassifierTransform
from perception.data.documents import conforms
from perception.data.files import file_hash
from perception.data.images import read_image
from perception.errors import UserError
from perception.jobs.contract import Outcome
from perception.jobs.items import Item
from perception.jobs.plan import CostPlan, Measurement, measure, plan

MATCH_RECORD = {"captions": str, "best": str, "errors": [float], "unconditional": (float, None), "evaluations": int}
_LINE_BYTES, _CAPTION_BYTES = 600, 22  # of a manifest line


@dataclass(frozen=True)
class MatchOptions:
    """Everything that decides an error."""

    samples: int = 100  # evenly spaced timesteps
    trials: int = 1  # noises per timestep
    loss: str = "l2"  # l2, l1 or huber
    normalise: bool = True  # also the error of the empty caption
    size: tuple[int, int] | None = None  # height and width in pixels; None: what the backbone was trained at
    interpolation: str = "bicubic"
    seed: int = 0  # of the noise, which all images share
    noise: Path | None = None  # noise file, instead of the seed
    rows: int = 32  # most rows per denoiser call
    truncate: bool = False  # cut captions that are too long, instead of stopping


class Sample(NamedTuple):
    """One prepared image."""

    id: str  # of the item
    pixels: torch.Tensor  # [3, H, W] in [0, 1]
    measured: torch.Tensor | None = None  # [3, S, S] as TypicalityMeter sees it


class MatchJob:
    """Predictor of the match job (see perception.jobs.contract.JobPredictor).

    An item is one image; `captions` tells its captions by item id. A finished item whose captions have changed since
    is done again. Raises UserError for sizes the backbone cannot take and for a noise file that does not fit.
    """

    def __init__(
        self, backbone: DiffusionBackbone, options: MatchOptions, captions: Mapping[str, tuple[str, ...]]
    ) -> None:
        o = options
        self.matcher = ImageCaptionMatcher(backbone, o.samples, o.trials, o.loss, o.rows, o.truncate)
        self.captions = captions
        self.normalise = o.normalise
        self.size = image_size(backbone, o.size)
        self.transform = ClassifierTransform(self.size, o.interpolation)
        self.noise = self._noise(backbone, options)
        self.meter = TypicalityMeter.of(backbone)
        self.options = _settings(options, self.size)
        self.revisions = backbone.revisions
        text = json.dumps([backbone.fingerprint, self.options], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def prepare(self, item: Item) -> Sample:
        """Read and transform one file; UserError when it is no usable image."""
        if item.path is None:
            raise UserError(f"{item.id} has no image file; match takes images")
        image = read_image(item.path)
        return Sample(item.id, self.transform(image), self.meter.pixels(image) if self.meter else None)

    def __call__(self, batch: Sequence[Sample]) -> list[Outcome]:
        """Errors of prepared images, one image at a time: a result does not depend on its neighbours."""
        return [Outcome(self._record(sample)) for sample in batch]

    def is_own(self, record: Mapping[str, Any]) -> bool:
        """Whether a line has the fields that this job writes, an error for each caption."""
        if not conforms(record, MATCH_RECORD) or (record["unconditional"] is not None) != self.normalise:
            return False
        return len(record["errors"]) == len(self.captions[record["id"]])

    def still_valid(self, record: Mapping[str, Any]) -> bool:
        """Whether a finished line holds the errors of the captions that are asked for now."""
        return record["captions"] == captions_digest(self.captions[record["id"]])

    def _record(self, sample: Sample) -> dict[str, Any]:
        captions = self.captions[sample.id]
        asked = [*captions, ""] if self.normalise else list(captions)
        latents = self.matcher.backbone.encode(sample.pixels[None])
        (errors,) = self.matcher.match_latents(latents, asked, self.noise)  # [C, N]; not finite: a failed line
        means = errors.double().mean(1).tolist()
        own = means[: len(captions)]
        return {
            "captions": captions_digest(captions),
            "best": captions[min(range(len(own)), key=own.__getitem__)],
            "errors": own,  # mean error per caption, in the order of the captions
            "unconditional": means[-1] if self.normalise else None,
            "evaluations": errors.numel(),
            **({} if self.meter is None or sample.measured is None else self.meter(sample.measured).record()),
        }

    def _noise(self, backbone: DiffusionBackbone, options: MatchOptions) -> NoiseSource:
        if options.noise is None:
            return SeededNoise(options.seed)
        noise, stride = read_noise(options.noise), backbone.latent_stride
        shape = (backbone.latent_channels, self.size[0] // stride, self.size[1] // stride)
        noise.check(len(self.matcher.samples), shape)
        return noise


def captions_digest(captions: Sequence[str]) -> str:
    """16 hex digits that name a list of captions."""
    return hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()[:16]


def plan_match(job: MatchJob, items: Sequence[Item]) -> CostPlan:
    """What matching these images would cost: one denoiser call and one VAE call, measured and scaled."""
    backbone, score = job.matcher.backbone, job.matcher.score
    samples, extra = len(job.matcher.samples), int(job.normalise)
    counts = [len(job.captions[item.id]) + extra for item in items] or [1]
    pixels = torch.zeros(1, 3, *job.size)
    k = min(max(counts), score.rows)
    repeats = max(1, score.rows // k)  # as many rows as one call has
    with torch.inference_mode():
        latents = backbone.encode(pixels).expand(repeats, -1, -1, -1)
        condition, steps = backbone.condition([""] * k), torch.zeros(repeats, dtype=torch.long)
        which = torch.arange(k).expand(repeats, -1)
        once, device = len(items) <= 1, backbone.device
        encoding = measure(lambda: backbone.encode(pixels), device, once=once)
        noise = torch.zeros_like(latents)
        call = measure(lambda: score(latents, noise, steps, condition, which), device, once=once)
    evaluations = samples * sum(counts) // len(counts)  # per image, on average
    calls = evaluations / (repeats * k)
    image = Measurement(
        flops=encoding.flops + call.flops * calls,
        seconds=encoding.seconds + call.seconds * calls,
        base_bytes=call.base_bytes,
        peak_bytes=call.peak_bytes,
    )
    disk = _LINE_BYTES + _CAPTION_BYTES * sum(counts) / len(counts)
    return plan(image, len(items), batch_size=1, evaluations=evaluations, disk_bytes=disk)


def _settings(options: MatchOptions, size: tuple[int, int]) -> dict[str, Any]:
    """What the fingerprint is made of, by the names of the command's options."""
    return {
        "samples": options.samples,
        "trials": options.trials,
        "loss": options.loss,
        "normalise": options.normalise,
        "truncate": options.truncate,
        "size": list(size),
        "interpolation": options.interpolation,
        "noise": f"seed {options.seed}" if options.noise is None else f"file {file_hash(options.noise)[:16]}",
    }
