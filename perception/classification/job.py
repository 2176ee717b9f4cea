"""The classify job: image files in, manifest records out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.image_size import image_size
from perception.backbones.typicality import TypicalityMeter
from perception.classification.calibration import ErrorCalibration
from perception.classification.classifier import Classification, DiffusionClassifier, Pool
from perception.classification.clip_preselection import ClipPreselection, ClipRanking
from perception.classification.error_maps import ErrorMaps, overlay_png
from perception.classification.few_shot import load_class_tokens
from perception.classification.noise import NoiseSource, SeededNoise, read_noise
from perception.classification.prompts import PromptSet
from perception.classification.race import Requests, race_ranking
from perception.classification.recorded import check_same_errors, job_fingerprint
from perception.classification.report import is_answer
from perception.classification.stopping.schedules import StoppingRule
from perception.classification.transforms import square_transform, trimmed
from perception.data.files import file_hash, fitting
from perception.data.images import content_hash, read_image
from perception.errors import UserError
from perception.jobs.contract import Outcome
from perception.jobs.items import Item

MOST_RANKED = 5  # classes in the ranking of a manifest line
MOST_SHOWN = 10  # candidates and classes whose numbers are in a manifest line; --save-errors writes those of all


@dataclass(frozen=True)
class ClassifyOptions:
    """Everything that decides an answer, and how much of it is written."""

    prompts: PromptSet
    rule: StoppingRule
    class_prompts: tuple[tuple[str, ...], ...] | None = None  # per class, for models that know classes, not text
    loss: str = "l2"  # l2, l1 or huber
    pool: Pool = "max"  # over the prompts of one class
    size: tuple[int, int] | None = None  # height and width in pixels; None: what the backbone was trained at
    interpolation: str = "bicubic"
    border: int = 0  # pixels cut from each side of the file first
    seed: int = 0  # of the noise
    noise: Path | None = None  # noise file shared by all images, instead of the seed
    rows: int = 32  # most rows per denoiser call
    save_errors: bool = False  # write every single error to OUT/errors
    error_maps: int = 0  # timesteps of the picture of winner and runner-up in OUT/error_maps; 0: none
    learned: ErrorCalibration | None = None  # what labelled images taught: probabilities, weights of the timesteps
    calibration: Path | None = None  # OUT of the run on those images, which must fit
    preselect: int | None = None  # classes of an image that race; None: all
    clip: str | None = None  # CLIP model that chooses them: a folder or a hub id
    crop: str | None = None  # resize or adm; None: as the backbone was trained
    tokens: Path | None = None  # learned class tokens

    def __post_init__(self) -> None:
        if (self.preselect is None) != (self.clip is None):
            raise UserError("`preselect` and `clip` belong together: how many classes race, and who chooses; give both")


class Sample(NamedTuple):
    """One prepared image."""

    id: str  # of the item
    noise_id: str  # SHA-256 of the decoded pixels: a renamed file gets the same noise
    pixels: torch.Tensor  # [3, H, W] in [0, 1]
    truth: int | None  # class, when the item has a label
    clip: torch.Tensor | None = None  # [3, S, S] as CLIP sees it
    measured: torch.Tensor | None = None  # [3, S, S] as TypicalityMeter sees it


class _Entered(NamedTuple):
    """An image whose race is on."""

    sample: Sample
    latent: torch.Tensor  # clean, [C, h, w]
    clip: ClipRanking | None
    race: Requests[Classification]


class ClassifyJob:
    """Predictor of the classify job (see perception.jobs.contract.StreamingPredictor).

    Images that race together share denoiser calls: their answers do not depend on each other, the last digits of their
    errors may. One by one every call is a function of one image alone.
    Raises UserError for sizes the backbone cannot take and for a noise file that does not fit.
    """

    def __init__(self, backbone: DiffusionBackbone, options: ClassifyOptions) -> None:
        self.clip = None if options.clip is None else ClipPreselection(options.clip, options.prompts, backbone.device)
        if backbone.class_names is not None and options.class_prompts is not None:
            options = replace(options, prompts=options.prompts.with_prompts(options.class_prompts))
        o = options
        tokens = None if o.tokens is None else load_class_tokens(o.tokens, o.prompts.names)
        self.classifier = DiffusionClassifier(
            backbone, o.prompts, o.rule, o.loss, o.pool, o.rows, o.learned, o.preselect, tokens
        )
        self.size = image_size(backbone, o.size)
        crop = o.crop or default_crop(backbone)
        self.transform = square_transform(crop, self.size, o.interpolation, o.border)
        self.maps = ErrorMaps(backbone, o.error_maps, o.rows, o.loss) if o.error_maps else None
        self.noise = self._noise(backbone, options)
        self.meter = TypicalityMeter.of(backbone)
        self.prompts = o.prompts
        self._names = frozenset(o.prompts.names)
        self.border = o.border
        self.save_errors = o.save_errors
        self.options = _settings(options, self.size, crop)
        if self.clip is not None:
            self.options["preselect_clip"] = self.clip.identity
        if o.calibration is not None:
            check_same_errors(o.calibration, backbone.fingerprint, self.options)
        clip = {} if self.clip is None or self.clip.revision is None else {"clip": self.clip.revision}
        self.revisions = {**backbone.revisions, **clip}
        self.fingerprint = job_fingerprint(backbone.fingerprint, self.options)

    def prepare(self, item: Item) -> Sample:
        """Read and transform one file; UserError when it is no usable image or its label is no class."""
        if item.path is None:
            raise UserError(f"{item.id} has no image file; classify takes images")
        image = read_image(item.path)
        truth = None if item.label is None else self.prompts.find(item.label)
        clip = self.clip.pixels(trimmed(image, self.border)) if self.clip else None
        measured = self.meter.pixels(image) if self.meter else None
        return Sample(item.id, content_hash(np.array(image)), self.transform(image), truth, clip, measured)

    def __call__(self, batch: Sequence[Sample]) -> list[Outcome]:
        """Classify prepared images."""
        outcomes = dict(filter(None, self.stream(enumerate(batch), len(batch))))
        return [outcomes[place] for place in range(len(batch))]

    def stream(self, samples: Iterable[tuple[int, Sample]], together: int) -> Iterator[tuple[int, Outcome] | None]:
        """Classify prepared images as they come; each is told when it is decided (see StreamingPredictor)."""
        racing: dict[int, _Entered] = {}

        def entrants() -> Iterator[tuple[int, Requests[Classification]]]:
            for place, sample in samples:
                entered = racing[place] = self._enter(sample)
                yield place, entered.race

        for decided in self.classifier.stream(entrants(), self.noise, together):
            if decided is None:
                yield None
            else:
                place, result = decided
                yield place, self._outcome(racing.pop(place), result)

    def spent(self) -> int:
        """Denoiser evaluations of all images so far."""
        return self.classifier.score.evaluations

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes, about its classes."""
        return is_answer(record, self._names)

    @torch.inference_mode()
    def _enter(self, sample: Sample) -> _Entered:
        latent = self.classifier.backbone.encode(sample.pixels[None])[0]  # [C, h, w]
        clip = None if self.clip is None or sample.clip is None else self.clip([sample.clip])[0]
        ranking = None if clip is None else clip.classes
        return _Entered(sample, latent, clip, self.classifier.race(latent, sample.noise_id, ranking))

    def _outcome(self, entered: _Entered, result: Classification) -> Outcome:
        if not result.survivors:
            return Outcome({"errors": float("nan")})  # which makes a failed line
        sample = entered.sample
        record = self._record(result, entered.clip)
        if self.meter is not None and sample.measured is not None:
            record |= self.meter(sample.measured).record()
        if sample.truth is not None:
            record |= {"truth": self.prompts.names[sample.truth], "correct": sample.truth == result.class_id}
        files = {fitting(f"errors/{sample.id}.safetensors"): self._errors(result)} if self.save_errors else {}
        if self.maps is not None and result.margin is not None:
            record["map_evaluations"], picture = self._map(sample, entered.latent, result)
            files[fitting(f"error_maps/{sample.id}.png")] = picture
        return Outcome(record, files)

    def _map(self, sample: Sample, latent: torch.Tensor, result: Classification) -> tuple[int, bytes]:
        """Evaluations spent, and the picture: red where the image speaks for the winner, blue for the runner-up."""
        assert self.maps is not None and result.margin is not None
        pair = [self.classifier.candidates[c].rows for c in (result.candidate, result.margin.rival)]
        self.maps.rows = self.classifier.score.rows  # fewer, once memory has run out
        maps = self.maps(latent, self.classifier.condition[[*pair[0], *pair[1]]], sample.noise_id, self.noise)
        winner, rival = (part.mean(0) for part in maps.split([len(rows) for rows in pair]))
        return len(maps) * len(self.maps.samples), overlay_png(sample.pixels, rival - winner)

    def _record(self, result: Classification, clip: ClipRanking | None) -> dict[str, Any]:
        candidates, margin, names = self.classifier.candidates, result.margin, self.prompts.names
        order = race_ranking(result.alive, result.errors, range(len(candidates)))
        ranking = list(dict.fromkeys([*(candidates[c].class_id for c in order), *(clip.classes if clip else ())]))
        best = sorted(order[:MOST_SHOWN])
        return {
            "label": result.label,
            "class_index": self.prompts.indices[result.class_id],
            "prompt": candidates[result.candidate].name,
            "errors": {candidates[c].name: result.errors[c] for c in best},
            "samples": {candidates[c].name: result.table.counts[c] for c in best},
            "evaluations": result.evaluations,
            "runner_up": None if margin is None else names[candidates[margin.rival].class_id],
            "margin": None if margin is None else margin.mean,
            "margin_se": None if margin is None or margin.samples < 2 else margin.standard_error,
            "ranking": [names[c] for c in ranking[:MOST_RANKED]],
            "rounds": len(result.alive) - 1,
            "survivors": [candidates[c].name for c in result.survivors[:MOST_SHOWN]],
            "stop": result.stop,
            **self._probabilities(result, ranking),
            **self._preselected(clip),
        }

    def _probabilities(self, result: Classification, ranking: Sequence[int]) -> dict[str, Any]:
        """Of the best classes, by name; nothing without a calibration."""
        if result.probabilities is None:
            return {}
        best = sorted(ranking[:MOST_SHOWN])
        return {"probabilities": {self.prompts.names[c]: result.probabilities[c] for c in best}}

    def _preselected(self, clip: ClipRanking | None) -> dict[str, Any]:
        """The positions of the classes that CLIP lets through, best first, and the similarities of the first few."""
        if clip is None or self.clip is None:
            return {}
        shown = zip(clip.classes[:MOST_SHOWN], clip.similarities[:MOST_SHOWN], strict=True)
        return {
            "preselected_by": self.clip.name,
            "preselected": list(clip.classes[: self.classifier.preselect]),
            "similarities": {self.prompts.names[c]: similarity for c, similarity in shown},
        }

    def _errors(self, result: Classification) -> bytes:
        """Errors [C, N] (NaN: not evaluated), timestep [N] and noise index [N] of every sample."""
        drawn = [sample for block in self.classifier.blocks for sample in block]
        tensors = {
            "errors": result.table.errors,
            "timesteps": torch.tensor([sample.timestep for sample in drawn]),
            "noise": torch.tensor([sample.index for sample in drawn]),
        }
        candidates = self.classifier.candidates
        names = {
            "candidates": json.dumps([c.name for c in candidates]),
            "classes": json.dumps([self.prompts.names[c.class_id] for c in candidates]),
        }
        rows = [len(c.rows) for c in candidates]  # of one sample
        names |= {"rows": json.dumps(rows)} if max(rows) > 1 else {}
        return _ordered(save(tensors, names))

    def _noise(self, backbone: DiffusionBackbone, options: ClassifyOptions) -> NoiseSource:
        if options.noise is None:
            return SeededNoise(options.seed)
        noise = read_noise(options.noise)
        samples = max(sum(map(len, self.classifier.blocks)), options.error_maps)
        stride = backbone.latent_stride
        noise.check(samples, (backbone.latent_channels, self.size[0] // stride, self.size[1] // stride))
        return noise


def _ordered(content: bytes) -> bytes:
    """A safetensors file with the keys of its header in order: the library writes metadata in a random one."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at multiples of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def default_crop(backbone: DiffusionBackbone) -> str:
    """The crop of the training: ADM's for a class-conditional DiT on latents (Peebles & Xie 2023, section 4)."""
    return "adm" if backbone.class_names is not None and backbone.vae is not None else "resize"


def _settings(options: ClassifyOptions, size: tuple[int, int], crop: str) -> dict[str, Any]:
    """What the fingerprint is made of, by the names of the command's options."""
    rule = options.rule
    return {
        "prompts": f"{len(options.prompts)} ({options.prompts.digest})",
        "classes": _digest((options.prompts.names, options.prompts.classes)),
        "method": repr(rule),
        "loss": options.loss,
        "pool": options.pool,
        "size": list(size),
        "interpolation": options.interpolation,
        "border": options.border,
        "noise": f"seed {options.seed}" if options.noise is None else _file_hash(options.noise),
        "save_errors": options.save_errors,
        "ranking": MOST_RANKED,
        "shown": MOST_SHOWN,
        **({"class_indices": _digest(options.prompts.indices)} if options.prompts.is_numbered else {}),
        **({"error_map_samples": options.error_maps} if options.error_maps else {}),
        **({"calibration": repr(options.learned)} if options.learned else {}),
        **({"preselect": options.preselect} if options.preselect else {}),
        **({"crop": crop} if crop != "resize" else {}),
        **({"class_tokens": file_hash(options.tokens)} if options.tokens else {}),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _file_hash(path: Path) -> str:
    try:
        return "file " + hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read the noise file {path} ({error.strerror}); check the path") from error
