"""Stopping rules compared on recorded errors: a rule reads nothing but an error table, so no denoiser is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.classification.error_table import ErrorTable
from perception.classification.stopping.schedules import StoppingRule
from perception.errors import UserError

SIGNIFICANT = 1.96  # standard errors the whole grid must be ahead by for its decision to count (two-sided 5 %)


@dataclass(frozen=True)
class Recorded:
    """The saved errors of one image."""

    errors: Tensor  # [C, N] float32; NaN where a candidate had left
    timesteps: tuple[int, ...]  # of the columns
    classes: tuple[int, ...]  # of the candidates
    truth: int | None = None  # the right class
    costs: tuple[int, ...] | None = None  # denoiser rows of one sample of each candidate; None: one


@dataclass(frozen=True)
class Replayed:
    """What a rule would have answered."""

    class_id: int
    evaluations: int
    stop: str
    table: ErrorTable


@dataclass(frozen=True)
class Summary:
    """A rule over many images; shares are NaN where nothing counts."""

    evaluations: float  # mean per image
    most: int  # the most of any image
    accuracy: float  # of the images with a known truth
    agreement: float  # with the whole grid, where that is significant
    agreement_all: float  # with the whole grid, everywhere


def replay(rule: StoppingRule, recorded: Recorded, num_train_timesteps: int = 1000) -> Replayed:
    """Let a rule run over the errors of an exhaustive run; UserError when it draws a sample that was not recorded."""
    _check_complete(recorded)
    column = {timestep: k for k, timestep in enumerate(recorded.timesteps)}
    blocks = rule.blocks(num_train_timesteps)
    table = ErrorTable(len(recorded.errors), sum(map(len, blocks)), recorded.classes, recorded.costs)
    stop = None
    for number, block in enumerate(blocks):
        missing = [s.timestep for s in block if s.timestep not in column or s.trial]
        if missing:
            raise UserError(
                f"the rule {rule.name} draws timestep {missing[0]}, which was not recorded; "
                f"give it the recorded grid of {len(column)} samples and one noise per timestep"
            )
        table.add(recorded.errors[list(table.alive)][:, [column[s.timestep] for s in block]])
        decision = rule.decide(number, table)
        table.alive, stop = decision.alive, decision.stop
        if stop:
            break
    return Replayed(recorded.classes[table.alive[0]], table.evaluations, stop or "all samples used", table)


def whole_grid(recorded: Recorded) -> tuple[int, float]:
    """The class with the smallest mean error, and its lead over the best candidate of another in standard errors."""
    _check_complete(recorded)
    candidates, samples = recorded.errors.shape
    table = ErrorTable(candidates, samples, recorded.classes)
    table.add(recorded.errors)
    winner = table.ranked(table.alive)[0]
    class_id = recorded.classes[winner]
    margin = table.margin(winner, [c for c, other in enumerate(recorded.classes) if other != class_id])
    if margin is None or not margin.standard_error > 0:
        return class_id, float("inf")
    return class_id, margin.mean / margin.standard_error


def summarise(rule: StoppingRule, images: Sequence[Recorded], num_train_timesteps: int = 1000) -> Summary:
    """Replay a rule over all images and compare it with truth and whole grid."""
    answers = [replay(rule, image, num_train_timesteps) for image in images]
    grids = [whole_grid(image) for image in images]
    same = [answer.class_id == grid for answer, (grid, _) in zip(answers, grids, strict=True)]
    right = [a.class_id == image.truth for a, image in zip(answers, images, strict=True) if image.truth is not None]
    return Summary(
        evaluations=_share([answer.evaluations for answer in answers]),
        most=max(answer.evaluations for answer in answers),
        accuracy=_share(right),
        agreement=_share([hit for hit, (_, lead) in zip(same, grids, strict=True) if lead > SIGNIFICANT]),
        agreement_all=_share(same),
    )


def _check_complete(recorded: Recorded) -> None:
    if not recorded.errors.isfinite().all() or len(set(recorded.timesteps)) != recorded.errors.shape[1]:
        raise UserError(
            "the recorded errors have gaps or repeated timesteps; record them with "
            "`perception classify --method exhaustive --trials 1 --save-errors`"
        )


def _share(values: Sequence[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).mean().item()
