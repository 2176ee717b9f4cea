"""What `perception generate` would cost: the dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from perception.errors import UserError
from perception.generation.job import GenerateJob
from perception.generation.plan import SceneCost, ScenePlanner
from perception.jobs.images import usable
from perception.jobs.items import Item
from perception.jobs.plan import CostPlan, Measurement, measure, plan, remaining

_COUNTED = 32  # scenes whose windows are counted, from all over the job
_LINE_BYTES = 3000  # of a manifest line and the statistics


@dataclass(frozen=True)
class ScenePlan:
    """The plan of a job, and where its work goes."""

    total: CostPlan
    costs: Sequence[SceneCost]  # of some scenes
    skipped: float  # mean share of windows of the second pass that are held as a whole

    def render(self) -> str:
        """A small table for people."""
        parts = {"denoiser": 0.0, "control networks": 0.0, "autoencoder": 0.0}
        for cost in self.costs:
            parts["denoiser"] += cost.denoiser_flops
            parts["control networks"] += cost.control_flops
            parts["autoencoder"] += cost.autoencoder_flops
        whole = sum(parts.values()) or 1
        shares = ", ".join(f"{name} {100 * value / whole:.0f} %" for name, value in parts.items())
        mean = whole / len(self.costs) / 1e12
        rows = [
            ("per image", f"{mean:.3g} TFLOP ({shares})"),
            ("windows left out", f"{100 * self.skipped:.0f} % of the second pass, held as a whole"),
            ("counted on", f"{len(self.costs)} samples"),
        ]
        return "\n".join([self.total.render(), *(f"{name:>20}  {value}" for name, value in rows)])


def plan_scenes(job: GenerateJob, items: Sequence[Item], out: Path | None, batch_size: int = 1) -> ScenePlan:
    """Windows of scenes from all over the job are counted, one denoiser call is measured; nothing is written.

    The call measured is as full as the calls of the longest pass are with `batch_size` scenes at a time.

    Raises:
        UserError: none of the label maps looked at can be used.
    """
    count = ScenePlanner(job.generator.denoiser, job.generator.options)
    spread = [items[i * len(items) // min(_COUNTED, len(items))] for i in range(min(_COUNTED, len(items)))]
    problems: list[str] = []
    costs = [count(scene) for scene in islice(usable(job, spread, problems.append), _COUNTED)]
    if not costs:
        raise UserError(f"None of the {len(spread)} label maps looked at can be used; the first: {problems[0]}")
    flops = sum(cost.flops for cost in costs) / len(costs)
    longest = max(part.denoiser_rows for cost in costs for part in cost.passes)
    call = _measured_call(job, batch_size * longest // job.generator.options.steps)
    value_bytes = job.generator.denoiser.controls[0].dtype.itemsize
    kept = min(batch_size, len(items)) * max(cost.kept_values for cost in costs) * value_bytes
    seconds = call.seconds * flops / max(call.flops, 1)
    image = Measurement(flops, seconds, call.base_bytes + kept, call.peak_bytes + kept)
    height, width = job.generator.options.size
    total = plan(
        image,
        remaining(items, out),
        batch_size=1,  # a call takes its rows, however many scenes share it; what every scene keeps is counted above
        evaluations=round(sum(cost.evaluations for cost in costs) / len(costs)),
        disk_bytes=3 * height * width + height * width / 8 + _LINE_BYTES,  # as much as an incompressible image
    )
    second = [cost.passes[1].skipped for cost in costs if len(cost.passes) > 1]
    return ScenePlan(total, costs, sum(second) / max(len(second), 1))


def _measured_call(job: GenerateJob, rows: int) -> Measurement:
    """Windows, both halves of guidance, through control networks and denoiser: `rows`, or all that a call takes."""
    generator = job.generator
    backbone, denoiser, side = generator.backbone, generator.denoiser, generator.options.window
    side = min(side, min(generator.options.large_size) // backbone.latent_stride)
    windows = max(1, min(rows, generator.fusion.rows) // 2)
    with torch.inference_mode():
        condition = backbone.condition([""] * windows + ["road"] * windows, truncate=True)
        pixels = side * backbone.latent_stride
        images = [torch.zeros(windows, channels, pixels, pixels) for channels in denoiser.channels]
        x_t = torch.zeros(2 * windows, backbone.latent_channels, side, side, device=backbone.device)
        return measure(lambda: denoiser(x_t, 500, condition, denoiser.embed(images), guided=True), backbone.device)
