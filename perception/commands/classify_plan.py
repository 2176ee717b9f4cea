"""What `perception classify` would cost: the dry run."""

from __future__ import annotations

import torch

from perception.backbones import DiffusionBackbone
from perception.commands.classify_job import ClassifyOptions, ImageClassifier
from perception.engine.plan import CostPlan, Measurement, measure, plan

_LINE_BYTES, _CANDIDATE_BYTES = 600, 120  # of a manifest line


def plan_classify(backbone: DiffusionBackbone, options: ClassifyOptions, items: int) -> CostPlan:
    """What classifying so many images would cost at most: one denoiser call and one VAE call, measured and scaled.

    A race that nothing ends early sees the whole grid; on images that the backbone knows it takes a small part of it.
    """
    job = ImageClassifier(backbone, options)
    score, total = job.classifier.score, job.classifier.most_evaluations
    rows = sum(len(c.rows) for c in job.classifier.candidates)
    pixels = torch.zeros(1, 3, *job.size)
    condition = job.classifier.condition
    k = min(rows, options.rows)
    samples = max(1, options.rows // k)  # as many rows as one call has
    with torch.inference_mode():
        latents = backbone.encode(pixels).expand(samples, -1, -1, -1)
        steps = torch.zeros(samples, dtype=torch.long)
        which = torch.arange(k).expand(samples, -1)
        encoding = measure(lambda: backbone.encode(pixels), backbone.device)
        call = measure(lambda: score(latents, torch.zeros_like(latents), steps, condition, which), backbone.device)
    total += _map_evaluations(job)
    calls = total / (samples * k)
    image = Measurement(
        flops=encoding.flops + call.flops * calls,
        seconds=encoding.seconds + call.seconds * calls,
        base_bytes=call.base_bytes,
        peak_bytes=call.peak_bytes,
    )
    return plan(image, items, batch_size=1, evaluations=total, disk_bytes=_disk_bytes(job))


def _disk_bytes(job: ImageClassifier) -> float:
    """Bytes written per image."""
    candidates, samples = len(job.classifier.candidates), sum(map(len, job.classifier.blocks))
    errors = 4 * candidates * samples if job.save_errors else 0  # float32
    picture = 3 * job.size[0] * job.size[1] if job.maps is not None else 0  # PNG makes it smaller
    return _LINE_BYTES + _CANDIDATE_BYTES * candidates + errors + picture


def _map_evaluations(job: ImageClassifier) -> int:
    """Denoiser rows of an error map of the two candidates with the most prompts."""
    if job.maps is None:
        return 0
    rows = sorted(len(c.rows) for c in job.classifier.candidates)
    return sum(rows[-2:]) * len(job.maps.samples)
