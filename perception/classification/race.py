"""The race itself: candidates of many images, block by block, until the stopping rule has an answer for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.backbones import Condition
from perception.backbones.devices import sent
from perception.classification.learned import Learned
from perception.classification.noise import NoiseSource
from perception.classification.rounds import Work, score_together
from perception.classification.schedule import Block, StoppingRule
from perception.classification.scoring import DenoisingErrors
from perception.classification.table import ErrorTable

NOT_FINITE = "errors not finite"


@dataclass(frozen=True)
class Candidate:
    """What competes: rows of the condition whose errors are averaged, on behalf of one class."""

    name: str  # what to show: the prompt, or the class when several prompts are pooled
    class_id: int  # position in PromptSet.names
    rows: tuple[int, ...]


@dataclass
class Race:
    """The state of one image: its errors so far, and what the stopping rule said last."""

    image_id: str
    blocks: tuple[Block, ...]
    table: ErrorTable
    stop: str | None = None
    done: int = 0  # blocks evaluated

    @property
    def block(self) -> Block | None:
        """The samples to evaluate next for all alive candidates; None when the race is over."""
        return None if self.stop or self.done == len(self.blocks) else self.blocks[self.done]

    @property
    def alive(self) -> tuple[tuple[int, ...], ...]:
        """Candidates evaluated in each block, best first, then the final order."""
        return (*self.table.history, self.table.alive)

    def update(self, errors: Tensor, rule: StoppingRule) -> None:
        """Enter the errors [alive, n] of the current block, and ask the rule; nobody survives errors not finite."""
        if not errors.isfinite().all():
            self.table.alive, self.stop = (), NOT_FINITE
            return
        self.table.add(errors)
        decision = rule.decide(self.done, self.table)
        self.table.alive, self.stop = decision.alive, decision.stop
        self.done += 1


@dataclass(frozen=True)
class Track:
    """What the races of all images have in common."""

    score: DenoisingErrors
    candidates: Sequence[Candidate]
    rule: StoppingRule
    blocks: tuple[Block, ...]  # of the rule: all of them, or the first few
    learned: Learned | None = None  # weights of the timesteps

    def run(
        self,
        latents: Tensor,  # clean, [B, C, h, w]
        image_ids: Sequence[str],  # seed the noise
        condition: Condition,  # the rows that candidates name
        noise: NoiseSource,
        starters: Sequence[tuple[int, ...]] | None = None,  # candidates of each image; default: all
    ) -> list[Race]:
        """Race until every image has its answer, or errors that are not finite; images share denoiser calls."""
        every = tuple(range(len(self.candidates)))
        alive = starters or [every] * len(image_ids)
        races = [
            Race(name, self.blocks, self._table(own), None if own else NOT_FINITE)  # nobody survived a screen
            for name, own in zip(image_ids, alive, strict=True)
        ]
        while running := [i for i, race in enumerate(races) if race.block is not None]:
            work = [self._work(latents[i], races[i], noise) for i in running]
            errors = score_together(self.score, work, condition)  # one transfer to the CPU
            for i, part in zip(running, errors, strict=True):  # part: [n, rows]
                races[i].update(self._pooled(races[i], part.T), self.rule)
        return races

    def _table(self, alive: tuple[int, ...]) -> ErrorTable:
        table = ErrorTable(
            len(self.candidates),
            sum(map(len, self.blocks)),
            [candidate.class_id for candidate in self.candidates],
            [len(candidate.rows) for candidate in self.candidates],
            self.learned.weight([s.timestep for block in self.blocks for s in block]) if self.learned else None,
            getattr(self.rule, "group", 1),
        )
        table.alive = alive
        return table

    def _work(self, latent: Tensor, race: Race, noise: NoiseSource) -> Work:
        block, shape = race.block or (), tuple(latent.shape)
        eps = [noise(race.image_id, sample, shape) for sample in block]
        rows = [row for c in race.table.alive for row in self.candidates[c].rows]
        return Work(
            latent=latent,
            noise=sent(torch.stack(eps), latent.device) if eps else latent.new_zeros(0, *shape),
            timesteps=torch.tensor([sample.timestep for sample in block], dtype=torch.long),
            candidates=torch.tensor(rows),
        )

    def _pooled(self, race: Race, errors: Tensor) -> Tensor:
        """Mean over the rows of each alive candidate: [rows, n] -> [alive, n]."""
        if len(errors) == len(race.table.alive):
            return errors
        parts = errors.split([len(self.candidates[c].rows) for c in race.table.alive])
        return torch.stack([part.mean(0) for part in parts])
