"""The generate job: label maps in; images, label maps and manifest records with full provenance out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.files import file_hash
from perception.data.images import content_hash, read_image
from perception.data.picture_files import DAMAGED, open_picture
from perception.data.pictures import png_bytes
from perception.errors import UserError
from perception.generation.finished_set import is_sample
from perception.generation.generator import GeneratedScene, SceneGenerator
from perception.generation.labels import class_counts
from perception.generation.samples import IMAGE_PLACE, LABEL_PLACE, Sample, check_listed, read_label_map, sample_stem
from perception.generation.scenes import Scene
from perception.jobs.contract import Outcome, fingerprint
from perception.jobs.items import Item

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")  # of control images
_FULL_SCALE = {"L": 255.0, "RGB": 255.0, "I;16": 65535.0, "F": 1.0}  # value that becomes 1


class GenerateJob:
    """Job predictor of a scene generator: images/ID.png and labels/ID_labelTrainIds.png below OUT.

    The scenes of a batch share denoiser calls: their pixels may differ by a grey level from those made alone. Batches
    are cut by place in the list, so a job that was killed writes the same bytes when it is resumed; a sample that is
    made again alone, because its file was deleted, may differ by that grey level.
    On a CPU they depend on the number of threads too (sums in another order), and torchrun sets OMP_NUM_THREADS=1.
    """

    def __init__(
        self,
        generator: SceneGenerator,
        samples: Sequence[Sample],
        settings: Mapping[str, Any],  # everything else that changes a result; some are copied to the records
        control_images: Sequence[Path] = (),  # folders, one per control network behind the first
        photos: Path | None = None,  # folder of what the label maps were drawn on; their detail is kept
    ) -> None:
        self.generator = generator
        self.device = generator.backbone.device
        self.samples = {sample.id: sample for sample in samples}
        self.control_images, self.photos = control_images, photos
        self.licences, self.seed = settings["licences"], settings["seed"]
        self.weights = {key: settings[key] for key in ("vae", "random_init_seed") if key in settings}
        self.sampler = generator.options.to_json()
        self.options = {**settings, "model": generator.model, "sampler": self.sampler}
        self.fingerprint = fingerprint(self.options)
        self.revisions = generator.revisions

    def prepare(self, item: Item) -> Scene:
        """Read a label map and compose its scene; UserError where it does not fit the classes or the crop."""
        sample = self.samples[item.id]
        check_listed(sample.id)
        labels = _guarded(sample.path, lambda: read_label_map(sample.path, self.generator.vocabulary))
        return self.generator.composer(
            labels,
            seed=self.seed,
            sample_id=sample.id,
            label=sample.label,
            domain=sample.domain,
            others=[
                read_control(path, channels)
                for path, channels in zip(self._others(sample), self.generator.denoiser.channels[1:], strict=True)
            ],
            photo=None if self.photos is None else np.asarray(read_image(_partner(self.photos, sample, "photo"))),
        )

    def __call__(self, batch: Sequence[Scene]) -> list[Outcome]:
        """Images of scenes."""
        return [self._outcome(scene, made) for scene, made in zip(batch, self.generator(batch), strict=True)]

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a line has the fields that this job writes."""
        return is_sample(record, len(self.generator.vocabulary))

    def still_valid(self, record: dict[str, Any]) -> bool:
        """False where the sample is now asked for with another crop class, or its pictures have changed."""
        sample = self.samples[record["id"]]
        now = {
            "class": self._class(sample),
            "control_images": self._other_records(sample),
            **self._photo_record(sample),
        }
        return all(record.get(key) == value for key, value in now.items())

    def _outcome(self, scene: Scene, made: GeneratedScene) -> Outcome:
        sample, classes = self.samples[scene.sample_id], len(self.generator.vocabulary)
        files = {
            IMAGE_PLACE.format(sample.id): png_bytes(np.asarray(made.image)),
            LABEL_PLACE.format(sample.id): png_bytes(made.labels),
        }
        record = {
            "source": sample.source,
            "repetition": sample.repetition,
            "class": self._class(sample),
            "resize": scene.resize,
            "box": list(scene.box),  # x1, y1, x2, y2 in the source map, resized
            "size": list(made.labels.shape),
            "prompt": scene.prompt.text,
            "domain": scene.prompt.domain,
            "held_share": round(float(scene.held.mean()), 6),
            "brightness": round(made.brightness, 4),  # NaN fails the sample
            "class_pixels": {str(label): count for label, count in class_counts(made.labels, classes).items()},
            "hashes": {path: content_hash(content) for path, content in files.items()},
            "control_images": self._other_records(sample),
            **self._photo_record(sample),
            "sampler": self.sampler,
            "model": {**self.generator.model, **self.weights, **self._revisions()},
            "licences": self.licences,
            "safety_checker": "off",
        }
        return Outcome(record, files)

    def _revisions(self) -> dict[str, Any]:
        return {"revisions": dict(self.revisions)} if self.revisions else {}

    def _class(self, sample: Sample) -> str | None:
        return None if sample.label is None else self.generator.vocabulary.names[sample.label]

    def _others(self, sample: Sample) -> list[Path]:
        """The control images of a sample's label map, one for each control network behind the first."""
        return [_partner(folder, sample, "control image") for folder in self.control_images]

    def _other_records(self, sample: Sample) -> list[dict[str, str]]:
        return [_traced(path) for path in self._others(sample)]

    def _photo_record(self, sample: Sample) -> dict[str, Any]:
        if self.photos is None:
            return {}
        traced = _traced(_partner(self.photos, sample, "photo"))
        return {"photo": {**traced, "detail_radius": self.generator.detail_radius}}


def read_control(path: Path, channels: int) -> np.ndarray:
    """A control image float32 [channels, H, W] in [0, 1]: 8 or 16-bit grey for one channel, RGB for three.

    Raises:
        UserError: it cannot be read, or has other channels.
    """
    with _guarded(path, lambda: open_picture(path)) as image:
        _guarded(path, image.load)
        scale = _FULL_SCALE.get(image.mode)
        pixels = np.asarray(image, np.float32)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if scale is None or len(planes) != channels:
            raise UserError(
                f"the control image {path.name} has the mode {image.mode}, but its control network takes {channels} "
                "channels; save it as grey (one channel) or RGB (three)"
            )
    return planes / np.float32(scale)


def _traced(path: Path) -> dict[str, str]:
    """What the record of a sample says of a picture that it was made with."""
    return {"file": path.name, "hash": file_hash(path)}


def _partner(folder: Path, sample: Sample, what: str) -> Path:
    """The picture in `folder` that belongs to a label map: the same stem, with or without the labels' ending."""
    stem = sample_stem(sample.source)
    stems = (stem, f"{stem}_leftImg8bit", sample.source.rpartition(".")[0])  # Cityscapes' ending of images
    for path in (folder / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES):
        if os.path.isfile(path):
            return path
    raise UserError(f"{folder} has no {what} {stem} ({', '.join(_SUFFIXES)}); add it")


def _guarded(path: Path, read: Any) -> Any:
    """What `read` returns; UserError for whatever a damaged picture makes Pillow raise."""
    try:
        return read()
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); replace the file") from error
