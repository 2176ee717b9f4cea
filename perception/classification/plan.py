"""The dry run of `perception classify`: its cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image

from perception.backbones.backbone import DiffusionBackbone
from perception.classification.job import ClassifyJob, ClassifyOptions
from perception.jobs.plan import CostPlan, Measurement, measure, plan

_LINE_BYTES, _CANDIDATE_BYTES = 600, 120  # of a manifest line


def plan_classify(backbone: DiffusionBackbone, options: ClassifyOptions, items: int) -> CostPlan:
    """What classifying so many images would cost at most: one denoiser call and one VAE call, measured and scaled.

    A race that nothing ends early sees the whole grid; on images that the backbone knows it takes a small part of it.
    """
    job = ClassifyJob(backbone, options)
    rows = job.classifier.most_evaluations + _map_evaluations(job)
    encoding, row = _measured(job, items <= 1)
    parts = [_scaled(row, rows), encoding]
    if (clip := job.clip) is not None:
        pixels = clip.pixels(Image.new("RGB", (64, 64)))
        parts.append(measure(lambda: clip([pixels]), backbone.device, once=items <= 1))
    image = Measurement(
        flops=sum(part.flops for part in parts),
        seconds=sum(part.seconds for part in parts),
        base_bytes=row.base_bytes,
        peak_bytes=row.peak_bytes,
    )
    return plan(image, items, batch_size=1, evaluations=rows, disk_bytes=_disk_bytes(job))


def _measured(job: ClassifyJob, once: bool) -> tuple[Measurement, Measurement]:
    """Encoding one image, and one denoiser row of it within a full call."""
    classifier, backbone = job.classifier, job.classifier.backbone
    rows = sum(len(c.rows) for c in classifier.candidates)
    pixels = torch.zeros(1, 3, *job.size)
    k = min(rows, classifier.score.rows)
    samples = 1 if once else max(1, classifier.score.rows // k)  # as many rows as one call has
    with torch.inference_mode():
        latents = backbone.encode(pixels).expand(samples, -1, -1, -1)
        arguments = torch.zeros_like(latents), torch.zeros(samples, dtype=torch.long), classifier.condition
        which = torch.arange(k).expand(samples, -1)
        encoding = measure(lambda: backbone.encode(pixels), backbone.device, once=once)
        call = measure(lambda: classifier.score(latents, *arguments, which), backbone.device, once=once)
    return encoding, _scaled(call, 1 / (samples * k))


def _scaled(measured: Measurement, factor: float) -> Measurement:
    return replace(measured, flops=measured.flops * factor, seconds=measured.seconds * factor)


def _disk_bytes(job: ClassifyJob) -> float:
    """Bytes written per image."""
    candidates, samples = len(job.classifier.candidates), sum(map(len, job.classifier.blocks))
    errors = 4 * candidates * samples if job.save_errors else 0  # float32
    picture = 3 * job.size[0] * job.size[1] if job.maps is not None else 0  # PNG makes it smaller
    return _LINE_BYTES + _CANDIDATE_BYTES * candidates + errors + picture


def _map_evaluations(job: ClassifyJob) -> int:
    """Denoiser rows of an error map of the two candidates with the most prompts."""
    if job.maps is None:
        return 0
    rows = sorted(len(c.rows) for c in job.classifier.candidates)
    return sum(rows[-2:]) * len(job.maps.samples)
