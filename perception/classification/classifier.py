"""The classifier: images in, labels with their margin out; the race of candidates goes block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning.condition import Condition, stacked
from perception.checks import check_tensors
from perception.classification.calibration import ErrorCalibration
from perception.classification.error_table import ErrorTable, Margin
from perception.classification.few_shot import ClassTokens
from perception.classification.noise import NoiseSource, SeededNoise
from perception.classification.prompts import PromptSet
from perception.classification.race import Candidate, ImageRace, Key, RaceSetup, Requests, race_together
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.schedules import StoppingRule, evaluations
from perception.errors import UserError

Pool = Literal["max", "mean_error", "mean_embed"]
POOLS = ("max", "mean_error", "mean_embed")
_AVERAGED = 64  # classes whose prompts are encoded together: as many prompts as the text encoder is fed, or a multiple


@dataclass(frozen=True)
class Classification:
    """The answer for one image; none where `survivors` is empty, because its errors are not finite."""

    label: str  # class name; "" without an answer
    class_id: int  # position in PromptSet.names; -1 without an answer
    candidate: int  # the winner among DiffusionClassifier.candidates; -1 without an answer
    errors: tuple[float, ...]  # mean error per candidate, over the samples it has seen; NaN without any
    margin: Margin | None  # lead over the best candidate of another class, paired; None without an answer
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
        learned: ErrorCalibration | None = None,  # of labelled images: probabilities, perhaps timestep weights
        preselect: int | None = None,  # classes of an image that race, the first of its ranking; None: all
        tokens: ClassTokens | None = None,  # from labelled images: one set per class, appended to its prompts
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompts = prompts
        self.rule = rule
        self.blocks = rule.blocks(backbone.num_train_timesteps)
        self.learned = learned
        self.score = DenoisingErrors(backbone, loss, rows)
        self.candidates, self.condition = _candidates(backbone, prompts, pool)
        self.setup = RaceSetup(self.candidates, rule, self.blocks, learned)
        if preselect is not None and preselect < 2:
            raise UserError(f"a preselection of {preselect} classes leaves nothing to compare; give 2 or more")
        self.preselect = None if preselect is None else min(preselect, len(prompts.names))
        if tokens is not None:
            owners = {row: c.class_id for c in self.candidates for row in c.rows}
            with torch.no_grad():
                self.condition = tokens(self.condition, [owners[row] for row in range(len(self.condition))])
        self.most_evaluations = evaluations(rule, self._most_costs(), backbone.num_train_timesteps)

    @torch.inference_mode()
    def forward(
        self, images: Tensor, image_ids: Sequence[str], noise: NoiseSource | None = None
    ) -> list[Classification]:
        """Classify images [B, 3, H, W], RGB in [0, 1], together; sides are multiples of the latent stride.

        The ids seed the noise (`SeededNoise(0)` unless given). Raises UserError for errors that are not finite.
        """
        results = self.classify_latents(self.backbone.encode(images), image_ids, noise)
        lost = [name for name, result in zip(image_ids, results, strict=True) if not result.survivors]
        if lost:
            raise UserError(
                f"the denoising errors of {lost[0]} are not finite; run the backbone in float32 or bfloat16"
            )
        return results

    def classify_latents(
        self,
        latents: Tensor,  # clean, [B, C, h, w]
        image_ids: Sequence[str],
        noise: NoiseSource | None = None,
        rankings: Sequence[Sequence[int]] | None = None,  # classes of each image, best first, for a preselection
    ) -> list[Classification]:
        """The same for latents, but an image whose errors are not finite gets no answer and costs the others nothing.

        Raises UserError when a preselection needs rankings and there are none.
        """
        check_tensors(latents=latents)
        count = len(image_ids)
        ranked: Sequence[Sequence[int] | None] = [None] * count if rankings is None else rankings
        each = zip(latents, image_ids, ranked, strict=True)
        entrants = ((i, self.race(*image)) for i, image in enumerate(each))
        results = dict(filter(None, self.stream(entrants, noise, count)))
        return [results[i] for i in range(count)]

    def stream(
        self,
        entrants: Iterable[tuple[Key, Requests[Classification]]],  # asked for one by one, as places become free
        noise: NoiseSource | None = None,  # `SeededNoise(0)` unless given
        together: int = 32,  # most images in the race at a time
    ) -> Iterator[tuple[Key, Classification] | None]:
        """Race images made by `race`, each under a key of the caller's; see `race_together` for what is yielded."""
        return race_together(self.score, self.condition, noise or SeededNoise(), entrants, together)

    def race(
        self,
        latent: Tensor,  # clean, [C, h, w]
        image_id: str,  # seeds the noise
        ranking: Sequence[int] | None = None,  # classes, best first, for a preselection
    ) -> Requests[Classification]:
        """Everything that one image needs to be classified. Raises UserError when a ranking is needed and missing."""
        if self.preselect is None:
            return self._result((yield from self.setup.race(latent, image_id)))
        if ranking is None:
            raise UserError("the preselection needs the classes of every image ranked; pass them as `rankings`")
        starters = self._of(ranking[: self.preselect])
        return self._result((yield from self.setup.race(latent, image_id, starters)))

    def _of(self, classes: Sequence[int]) -> tuple[int, ...]:
        wanted = set(classes)
        return tuple(c for c, candidate in enumerate(self.candidates) if candidate.class_id in wanted)

    def _most_costs(self) -> list[int]:
        """Denoiser rows of one sample of each candidate, when the classes that cost the most race."""
        rows: Counter[int] = Counter()
        for candidate in self.candidates:
            rows[candidate.class_id] += len(candidate.rows)
        racing = self._of([class_id for class_id, _ in rows.most_common(self.preselect)])
        return [len(self.candidates[c].rows) for c in racing]

    def _result(self, race: ImageRace) -> Classification:
        table, means = race.table, tuple(race.table.means().tolist())
        if not table.alive:
            spent, stop = table.evaluations, str(race.stop)
            return Classification("", -1, -1, means, None, spent, race.alive, (), stop, table)
        winner = table.alive[0]
        class_id = self.candidates[winner].class_id
        rivals = [c for c, other in enumerate(self.candidates) if other.class_id != class_id]
        return Classification(
            label=self.prompts.names[class_id],
            class_id=class_id,
            candidate=winner,
            errors=means,
            margin=table.margin(winner, rivals),
            evaluations=table.evaluations,
            alive=race.alive,
            survivors=table.alive,
            stop=race.stop or "all samples used",
            table=table,
            probabilities=tuple(self.learned.probabilities(table).tolist()) if self.learned else None,
        )


def _candidates(backbone: DiffusionBackbone, prompts: PromptSet, pool: Pool) -> tuple[list[Candidate], Condition]:
    if pool not in POOLS:
        raise UserError(f"unknown pooling {pool!r}; choose one of {', '.join(POOLS)}")
    groups = [prompts.rows(c) for c in range(len(prompts.names))]
    with torch.no_grad():
        if pool == "mean_embed":
            condition = _averaged(backbone, prompts, groups)
            return [Candidate(name, c, (c,)) for c, name in enumerate(prompts.names)], condition
        condition = backbone.condition(prompts.prompts)
    if pool == "max":
        return [Candidate(name, c, (row,)) for row, (name, c) in enumerate(_distinct(prompts))], condition
    return [Candidate(name, c, groups[c]) for c, name in enumerate(prompts.names)], condition


def _averaged(backbone: DiffusionBackbone, prompts: PromptSet, groups: Sequence[Sequence[int]]) -> Condition:
    """One row per class, the mean of its prompts; all prompts of a thousand classes at once would take gigabytes."""
    parts = []
    for start in range(0, len(groups), _AVERAGED):
        some = groups[start : start + _AVERAGED]
        ends = [0, *accumulate(map(len, some))]
        condition = backbone.condition([prompts.prompts[row] for group in some for row in group])
        parts.append(condition.averaged([range(first, end) for first, end in pairwise(ends)]))
    return stacked(parts)


def _distinct(prompts: PromptSet) -> list[tuple[str, int]]:
    """A name per prompt and its class; prompts that two classes share are told apart by the class name."""
    counts = Counter(prompts.prompts)
    pairs = zip(prompts.prompts, prompts.classes, strict=True)
    return [(text if counts[text] == 1 else f"{text} ({prompts.names[c]})", c) for text, c in pairs]
