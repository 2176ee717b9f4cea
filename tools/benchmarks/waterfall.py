"""Where the work of the zero-shot classifier goes, from the released schedule to racing in full batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perception.backbones.backbone import DiffusionBackbone
from perception.classification.classifier import DiffusionClassifier
from perception.classification.prompts import PromptSet
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.racing import Racing
from perception.classification.stopping.schedules import FixedSchedule, StoppingRule
from perception.jobs.plan import timed

HEADER = f"{'':<40} {'evaluations':>11} {'calls':>6} {'GFLOP':>9} {'seconds':>9} {'of plain':>8} {'right':>6}"
_PLAIN_CALLS = 4  # of the plain path that every step is timed against
_FEW = 2  # images of the fixed schedules, half a minute each on a CPU
_REPEATS, _ENOUGH = 9, 60.0  # timed runs of a step between two of that path: so many, or what begins in these seconds


@dataclass(frozen=True)
class Step:
    """One way of classifying the same images; numbers per image."""

    name: str
    evaluations: float  # denoiser rows
    calls: float  # of the denoiser: what a GPU that waits for its kernels to be started pays for
    gflop: float  # 1e9 floating-point operations, a multiply-add counts as two
    seconds: float  # median
    of_plain: float  # seconds per evaluation over those of full calls, by neighbouring runs; median
    accuracy: float

    def render(self) -> str:
        """One line of the printed table."""
        return (
            f"{self.name:<40} {self.evaluations:11.1f} {self.calls:6.1f} {self.gflop:9.1f} {self.seconds:9.3f}"
            f" {self.of_plain:8.3f} {self.accuracy:6.1%}"
        )


def waterfall(
    backbone: DiffusionBackbone,
    images: Tensor,  # [B, 3, H, W] in [0, 1]
    truth: Sequence[int],  # class of each image
    prompts: PromptSet,
    stages: tuple[int, ...] = (25, 250),
    keep: tuple[int, ...] = (5, 1),
    rows: int = 32,  # most rows per denoiser call
    reduced: DiffusionBackbone | None = None,  # the same weights in bfloat16, for a step more
    compile: bool = False,  # and a last one with torch.compile: minutes of compiling
) -> Iterator[Step]:
    """Yield the steps in order; each keeps what the one before has gained. Fixed schedules get two of the images.

    As many images as a denoiser call has rows race together, as in `perception classify`.
    """
    reference = FixedSchedule(stages, keep)
    racing = Racing(max(stages))
    ways: list[tuple[str, StoppingRule, int]] = [
        ("released schedule", reference, 1),
        ("nominal counts", FixedSchedule(stages, keep, nested=True), 1),
        ("racing", racing, 1),
        ("+ images together", racing, rows),
    ]
    for name, rule, together in ways:
        classifier = DiffusionClassifier(backbone, prompts, rule, rows=rows)
        some = images if rule is racing else images[:_FEW]
        yield _step(name, classifier, backbone.encode(some), truth[: len(some)], together)
    if reduced is not None:
        classifier = DiffusionClassifier(reduced, prompts, racing, rows=rows)
        yield _step("+ bfloat16", classifier, reduced.encode(images), truth, rows)
        if compile:
            reduced.compile_denoiser()
            classifier.classify_latents(reduced.encode(images), [f"image {i}" for i in range(len(images))])  # compiles
            yield _step("+ torch.compile", classifier, reduced.encode(images), truth, rows)


def _step(name: str, classifier: DiffusionClassifier, latents: Tensor, truth: Sequence[int], together: int) -> Step:
    count = len(latents)
    batches = [range(start, min(start + together, count)) for start in range(0, count, together)]

    def classify() -> list[tuple[int, int]]:
        answers = [
            classifier.classify_latents(latents[list(batch)], [f"image {i}" for i in batch]) for batch in batches
        ]
        return [(answer.class_id, answer.evaluations) for part in answers for answer in part]

    earlier = classifier.score.calls
    with FlopCounterMode(display=False) as counter:
        answers = classify()  # also fills caches
    evaluations, calls = sum(spent for _, spent in answers), classifier.score.calls - earlier
    plain, rows = _plain_path(classifier, latents)
    plain()
    pairs: list[tuple[float, float]] = []
    began, before = time.perf_counter(), timed(plain, latents.device)
    while not pairs or (len(pairs) < _REPEATS and time.perf_counter() - began < _ENOUGH):
        own, after = timed(classify, latents.device), timed(plain, latents.device)
        pairs.append((own, (before + after) / 2))
        before = after
    return Step(
        name=name,
        evaluations=evaluations / count,
        calls=calls / count,
        gflop=counter.get_total_flops() / 1e9 / count,
        seconds=statistics.median(own for own, _ in pairs) / count,
        of_plain=statistics.median(own / beside for own, beside in pairs) * rows / evaluations,
        accuracy=sum(guess == right for (guess, _), right in zip(answers, truth, strict=True)) / count,
    )


def _plain_path(classifier: DiffusionClassifier, latents: Tensor) -> tuple[Callable[[], object], int]:
    """All candidates on samples enough for a few full calls, not compiled; and its rows."""
    backbone, rows, k = classifier.backbone, classifier.score.rows, len(classifier.condition)
    score = DenoisingErrors(backbone, rows=rows)
    samples = _PLAIN_CALLS * max(1, rows // k)
    clean = latents[:1].expand(samples, -1, -1, -1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean.device)
    timesteps = torch.arange(samples) * backbone.num_train_timesteps // samples
    candidates = torch.arange(k).expand(samples, -1)

    @torch.inference_mode()
    def plain() -> Tensor:
        with backbone.as_is():
            return score(clean, noise, timesteps, classifier.condition, candidates)

    return plain, samples * k


def world_objects(count: int, size: int) -> tuple[Tensor, list[int], PromptSet]:
    """HeldRegion-out objects of the miniature world, [count, 3, size, size], their classes, and ten prompts."""
    from perception.classification.prompts import class_prompts
    from perception.data.world import TEN_OBJECTS, TEST_SEED, render_object

    truth = [index % len(TEN_OBJECTS) for index in range(count)]
    drawn = [render_object(TEST_SEED, index, TEN_OBJECTS[c], size).image for index, c in enumerate(truth)]
    pixels = torch.stack([torch.from_numpy(image.copy()) for image in drawn]).permute(0, 3, 1, 2)  # [B, 3, H, W]
    return pixels / 255, truth, class_prompts(TEN_OBJECTS)


def set_pictures(
    name: str, root: Path, count: int, size: int, class_conditional: bool
) -> tuple[Tensor, list[int], PromptSet]:
    """The first test pictures of a classification set, [count, 3, size, size], their classes, and its prompts.

    A class-conditional backbone is told bare class names. Raises UserError as `classification_set`.
    """
    from perception.classification.prompts import class_prompts
    from perception.classification.sets import classification_set
    from perception.classification.transforms import ClassifierTransform
    from perception.data.images import read_image

    chosen = classification_set(name, root)
    images = chosen.images[:count]
    transform = ClassifierTransform(size, border=chosen.border)
    pixels = torch.stack([transform(read_image(image.path)) for image in images])
    prompts = class_prompts(chosen.prompts.names, ("{}",)) if class_conditional else chosen.prompts
    return pixels, [image.class_id for image in images], prompts
