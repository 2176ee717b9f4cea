"""The classifier: images in, labels with their margin out; the race of candidates goes block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from perception.backbones import Condition, DiffusionBackbone
from perception.classification.learned import Learned
from perception.classification.noise import NoiseSource, SeededNoise
from perception.classification.prompts import PromptSet
from perception.classification.rounds import Work, score_together
from perception.classification.schedule import Block, StoppingRule, evaluations
from perception.classification.scoring import DenoisingErrors
from perception.classification.table import ErrorTable, Margin
from perception.errors import UserError

Pool = Literal["max", "mean_error", "mean_embed"]
POOLS = ("max", "mean_error", "mean_embed")
_MOST_CACHED_PROMPTS = 256  # 7.7 MB each for SD 1.5 in float32


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

    def update(self, errors: Tensor, rule: StoppingRule) -> None:
        """Enter the errors [alive, n] of the current block, and ask the rule."""
        if not errors.isfinite().all():
            raise UserError(
                f"the denoising errors of {self.image_id} are not finite; run the backbone in float32 or bfloat16"
            )
        self.table.add(errors)
        decision = rule.decide(self.done, self.table)
        self.table.alive, self.stop = decision.alive, decision.stop
        self.done += 1


@dataclass(frozen=True)
class Classification:
    """The answer for one image."""

    label: str  # class name
    class_id: int  # position in PromptSet.names
    candidate: int  # the winner among DiffusionClassifier.candidates
    errors: tuple[float, ...]  # mean error per candidate, over the samples it has seen
    margin: Margin | None  # lead over the best candidate of another class, paired; None if no sample was drawn
    evaluations: int  # denoiser rows spent on this image
    alive: tuple[tuple[int, ...], ...]  # candidates evaluated in each block, best first, then the final order
    survivors: tuple[int, ...]  # candidates the rule could not drop, best first; the first of them is the winner
    stop: str  # why the race ended
    table: ErrorTable = field(repr=False)  # all errors
    probabilities: tuple[float, ...] | None = None  # per class; None without a calibration


class DiffusionClassifier(nn.Module):
    """Zero-shot classification: the class whose prompt lets the denoiser predict the noise best.

    p(c | x) under a uniform prior is ranked by -E_{t, eps} |eps - eps_hat(x_t, t, c)| (Li et al. 2023, eq. 7);
    all candidates of an image see the same samples. Pooling over the prompts of a class: "max" lets every prompt
    compete (the best single template wins, as in the reference), "mean_error" averages errors, "mean_embed" text
    embeddings.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        prompts: PromptSet,
        rule: StoppingRule,
        loss: str = "l2",  # l2, l1 or huber
        pool: Pool = "max",
        rows: int = 32,  # most rows per denoiser call
        share: bool = True,  # see DenoisingErrors
        learned: Learned | None = None,  # from labelled images: probabilities, and perhaps weights of the timesteps
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompts = prompts
        self.rule = rule
        self.blocks = rule.blocks(backbone.num_train_timesteps)
        self.learned = learned
        self.score = DenoisingErrors(backbone, loss, rows, share)
        self.candidates, self.condition = _candidates(backbone, prompts, pool)
        self.most_evaluations = evaluations(
            rule, sum(len(c.rows) for c in self.candidates), backbone.num_train_timesteps
        )

    @torch.inference_mode()
    def forward(
        self, images: Tensor, image_ids: Sequence[str], noise: NoiseSource | None = None
    ) -> list[Classification]:
        """Classify images [B, 3, H, W], RGB in [0, 1], together; sides are multiples of the latent stride.

        The ids seed the noise (`SeededNoise(0)` unless given). Raises UserError for errors that are not finite.
        """
        return self.classify_latents(self.backbone.encode(images), image_ids, noise)

    @torch.inference_mode()
    def classify_latents(
        self, latents: Tensor, image_ids: Sequence[str], noise: NoiseSource | None = None
    ) -> list[Classification]:
        """The same for clean latents [B, C, h, w]."""
        noise = noise or SeededNoise()
        races = [Race(name, self.blocks, self._table()) for name in image_ids]
        with self._text_cache():
            while running := [i for i, race in enumerate(races) if race.block is not None]:
                self._round(running, races, latents, noise)
        return [self._result(race) for race in races]

    def _text_cache(self) -> AbstractContextManager[None]:
        """Keys and values of the prompts, as long as they are few enough to hold."""
        cached = self.score.share and len(self.condition) <= _MOST_CACHED_PROMPTS
        return self.backbone.cached_text() if cached else nullcontext()

    def _table(self) -> ErrorTable:
        return ErrorTable(
            len(self.candidates),
            sum(map(len, self.blocks)),
            [candidate.class_id for candidate in self.candidates],
            [len(candidate.rows) for candidate in self.candidates],
            self.learned.weight([s.timestep for block in self.blocks for s in block]) if self.learned else None,
        )

    def _round(self, running: list[int], races: list[Race], latents: Tensor, noise: NoiseSource) -> None:
        """Evaluate the next block of every running image, with one transfer of errors to the CPU."""
        work = [self._work(i, races[i], latents, noise) for i in running]
        errors = score_together(self.score, work, self.condition)
        for i, part in zip(running, errors, strict=True):  # part: [n, rows]
            races[i].update(self._pooled(races[i], part.T), self.rule)

    def _work(self, image: int, race: Race, latents: Tensor, noise: NoiseSource) -> Work:
        block, shape = race.block or (), tuple(latents.shape[1:])
        eps = [noise(race.image_id, sample, shape) for sample in block]
        return Work(
            latent=latents[image],
            noise=torch.stack(eps).to(latents.device) if eps else latents.new_zeros(0, *shape),
            timesteps=torch.tensor([sample.timestep for sample in block], dtype=torch.long),
            candidates=torch.tensor(self._rows(race)),
        )

    def _rows(self, race: Race) -> list[int]:
        return [row for c in race.table.alive for row in self.candidates[c].rows]

    def _pooled(self, race: Race, errors: Tensor) -> Tensor:
        """Mean over the rows of each alive candidate: [rows, n] -> [alive, n]."""
        parts = errors.split([len(self.candidates[c].rows) for c in race.table.alive])
        return torch.stack([part.mean(0) for part in parts])

    def _result(self, race: Race) -> Classification:
        table = race.table
        winner = table.alive[0]
        class_id = self.candidates[winner].class_id
        rivals = [c for c, other in enumerate(self.candidates) if other.class_id != class_id]
        return Classification(
            label=self.prompts.names[class_id],
            class_id=class_id,
            candidate=winner,
            errors=tuple(table.means().tolist()),
            margin=table.margin(winner, rivals),
            evaluations=table.evaluations,
            alive=(*table.history, table.alive),
            survivors=table.alive,
            stop=race.stop or "all samples used",
            table=table,
            probabilities=tuple(self.learned.probabilities(table).tolist()) if self.learned else None,
        )


def _candidates(backbone: DiffusionBackbone, prompts: PromptSet, pool: Pool) -> tuple[list[Candidate], Condition]:
    if pool not in POOLS:
        raise UserError(f"unknown pooling {pool!r}; choose one of {', '.join(POOLS)}")
    with torch.no_grad():
        condition = backbone.condition(prompts.prompts)
    if pool == "max":
        return [Candidate(name, c, (row,)) for row, (name, c) in enumerate(_distinct(prompts))], condition
    groups = [prompts.rows(c) for c in range(len(prompts.names))]
    if pool == "mean_embed":
        condition = condition.averaged(groups)
        groups = [(c,) for c in range(len(groups))]
    return [Candidate(name, c, groups[c]) for c, name in enumerate(prompts.names)], condition


def _distinct(prompts: PromptSet) -> list[tuple[str, int]]:
    """A name per prompt and its class; prompts that two classes share are told apart by the class name."""
    counts = Counter(prompts.prompts)
    pairs = zip(prompts.prompts, prompts.classes, strict=True)
    return [(text if counts[text] == 1 else f"{text} ({prompts.names[c]})", c) for text, c in pairs]
