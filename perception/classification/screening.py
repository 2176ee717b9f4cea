"""Cheaper rounds before the race, each off by default: a preselection of classes, and the image at a smaller size.

The classes are preselected by a label tree here, or by rankings from elsewhere. All of this is approximate: a class
that it drops cannot win. The errors of these rounds never enter the race, whose statistics are those of the whole image
and its own noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from perception.backbones.backbone import DiffusionBackbone
from perception.backbones.conditioning import Condition
from perception.classification.label_tree import LabelTree, class_vectors, label_tree
from perception.classification.race import ImageRace, RaceSetup, Requests, race_ranking
from perception.classification.schedule import Block, Exhaustive
from perception.errors import UserError


@dataclass(frozen=True)
class Screens:
    """Which rounds there are. Raises UserError for numbers out of range."""

    preselect: int | None = None  # classes that race; None, or all of them: no label tree
    tree_samples: int = 16  # samples of each medoid, evenly spaced timesteps
    small_samples: int | None = None  # samples per candidate on the small image, to the end of a block; None: none
    ranked: bool = field(default=False, repr=False)  # the caller ranks the classes of each image, in place of the tree

    def __post_init__(self) -> None:
        if self.preselect is not None and self.preselect < 2:
            raise UserError(f"a preselection of {self.preselect} classes leaves nothing to compare; give 2 or more")
        if min(self.tree_samples, 1 if self.small_samples is None else self.small_samples) < 1:
            raise UserError("a screening round needs 1 sample or more")
        if self.ranked and self.preselect is None:
            raise UserError("ranked classes need `preselect`, the number of them that race; give it")


@dataclass(frozen=True)
class Screened:
    """What the rounds say about one image."""

    starters: tuple[int, ...]  # candidates that race, in their given order; (): the errors are not finite
    order: tuple[int, ...] = ()  # classes, best first, as far as the rounds tell
    tree_evaluations: int = 0  # denoiser rows of the medoids
    small_evaluations: int = 0  # denoiser rows on the small image


class Screening:
    """Runs the rounds: the medoids of the label tree, then the first blocks of the rule on the small image.

    There is no tree when the classes of each image come ranked. The tree sees the small image too, when there is one. A
    screen never decides: at least two classes race.
    """

    def __init__(self, backbone: DiffusionBackbone, setup: RaceSetup, condition: Condition, screens: Screens) -> None:
        self.small: RaceSetup | None = None
        if screens.small_samples is not None:
            self.small = replace(setup, blocks=_first_blocks(setup.blocks, screens.small_samples))
            if len(setup.blocks) == 1:
                raise UserError(f"the method {setup.rule.name} has no rounds, so no smaller image can go first")
        self.classes = 1 + max(candidate.class_id for candidate in setup.candidates)
        self.keep = min(screens.preselect or self.classes, self.classes)
        self.ranked = screens.ranked
        self.tree: LabelTree | None = None
        if self.keep < self.classes and not self.ranked:
            rule = Exhaustive(screens.tree_samples)
            self.medoids = replace(setup, rule=rule, blocks=rule.blocks(backbone.num_train_timesteps))
            owners = {row: candidate.class_id for candidate in setup.candidates for row in candidate.rows}
            vectors = class_vectors(backbone, condition, [owners[row] for row in range(len(condition))])
            self.tree = label_tree(vectors)
        self.candidates = setup.candidates

    def screen(
        self,
        latent: Tensor,  # [C, h, w], of the small image if that is asked for, else of the whole one
        image_id: str,
        ranking: Sequence[int] | None = None,  # classes, best first, for `Screens.ranked`
    ) -> Requests[Screened]:
        """Screen one image. Raises UserError when ranked classes are asked for and there are none."""
        found = Screened(self._of(range(self.classes)))
        if self.ranked:
            if ranking is None:
                raise UserError("the preselection needs the classes of every image ranked; pass them as `rankings`")
            found = Screened(self._of(ranking[: self.keep]), tuple(ranking))
        if self.tree is not None:
            race = yield from self.medoids.race(latent, image_id, self._of(self.tree.medoids))
            found = self._expanded(self.tree, race)
        if self.small is not None:
            race = yield from self.small.race(latent, image_id, found.starters)
            found = self._survived(found, race)
        return found

    def most_costs(self) -> list[int]:
        """Denoiser rows of one sample of each candidate, when the classes that cost the most race."""
        rows: Counter[int] = Counter()
        for candidate in self.candidates:
            rows[candidate.class_id] += len(candidate.rows)
        racing = self._of([class_id for class_id, _ in rows.most_common(self.keep)])
        return [len(self.candidates[c].rows) for c in racing]

    def most_evaluations(self) -> tuple[int, int]:
        """Denoiser rows of one image at most: of the medoids, and on the small image."""
        tree, small = 0, 0
        if self.tree is not None:
            rows = sum(len(self.candidates[c].rows) for c in self._of(self.tree.medoids))
            tree = rows * len(self.medoids.blocks[0])
        if self.small is not None:
            most, blocks = self.small.rule.most_rows(self.most_costs()), self.small.blocks  # the first ones of the rule
            small = sum(k * len(block) for k, block in zip(most[: len(blocks)], blocks, strict=True))
        return tree, small

    def _of(self, classes: Sequence[int]) -> tuple[int, ...]:
        wanted = set(classes)
        return tuple(c for c, candidate in enumerate(self.candidates) if candidate.class_id in wanted)

    def _expanded(self, tree: LabelTree, race: ImageRace) -> Screened:
        """The best clusters, until there are enough classes."""
        if not race.table.alive:
            return Screened(())
        order = tree.ranked(self._ranked(race))
        return Screened(self._of(order[: self.keep]), order, tree_evaluations=race.table.evaluations)

    def _survived(self, before: Screened, race: ImageRace) -> Screened:
        order = dict.fromkeys([*self._ranked(race), *before.order])
        starters = tuple(sorted({*race.table.alive, *_rival(race)}))
        return replace(before, starters=starters, order=tuple(order), small_evaluations=race.table.evaluations)

    def _ranked(self, race: ImageRace) -> list[int]:
        classes = [candidate.class_id for candidate in self.candidates]
        return race_ranking(race.alive, race.table.means().tolist(), classes)


def _rival(race: ImageRace) -> tuple[int, ...]:
    """The runner-up of another class, where only one class is left."""
    table = race.table
    if len({table.classes[c] for c in table.alive}) != 1:
        return ()
    winner = table.alive[0]
    seen = [c for c, count in enumerate(table.counts) if count and table.classes[c] != table.classes[winner]]
    margin = table.margin(winner, seen)
    return () if margin is None else (margin.rival,)


def _first_blocks(blocks: tuple[Block, ...], samples: int) -> tuple[Block, ...]:
    """Blocks up to so many samples, at least one."""
    total, kept = 0, 0
    for block in blocks:
        total += len(block)
        kept += total <= samples
    return blocks[: max(1, kept)]
