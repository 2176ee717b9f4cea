"""The race itself: candidates of many images, block by block, until the stopping rule has an answer for each.

An image is a generator that asks for the errors of its alive candidates on the next block of samples and ends with its
answer. `race_together` answers the requests of several images in full denoiser calls: the oldest undecided image comes
first, others fill what it leaves, and a decided image gives its place to the next. Which images meet in a call depends
on their order and their errors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from perception.backbones.conditioning.condition import Condition
from perception.backbones.devices import to_device
from perception.classification.calibration import ErrorCalibration
from perception.classification.error_table import ErrorTable
from perception.classification.noise import NoiseSource
from perception.classification.scoring import DenoisingErrors
from perception.classification.stopping.schedules import Block, StoppingRule

NOT_FINITE = "errors not finite"
Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Candidate:
    """What competes: rows of the condition whose errors are averaged, on behalf of one class."""

    name: str  # what to show: the prompt, or the class when several prompts are pooled
    class_id: int  # position in PromptSet.names
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ErrorRequest:
    """The errors of all alive candidates of one image on the samples of one block."""

    latent: Tensor  # clean, [C, h, w]
    image_id: str  # seeds the noise
    block: Block  # n samples
    candidates: Tensor  # int64 [K], rows of the condition, on the CPU

    @property
    def rows(self) -> int:
        """Denoiser evaluations."""
        return len(self.block) * len(self.candidates)


Requests = Generator[ErrorRequest, Tensor, Result]
"""Yields requests, is sent their errors (float32 [n, K], on the CPU), returns a result."""


@dataclass
class ImageRace:
    """The state of one image: its errors so far, and what the stopping rule said last."""

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
class RaceSetup:
    """What the races of all images have in common."""

    candidates: Sequence[Candidate]
    rule: StoppingRule
    blocks: tuple[Block, ...]  # of the rule
    learned: ErrorCalibration | None = None  # weights of the timesteps

    def race(
        self,
        latent: Tensor,  # clean, [C, h, w]
        image_id: str,  # seeds the noise
        starters: tuple[int, ...] | None = None,  # candidates that race; None: all
    ) -> Requests[ImageRace]:
        """The race of one image, until it has its answer, or errors that are not finite."""
        alive = tuple(range(len(self.candidates))) if starters is None else starters
        race = ImageRace(self.blocks, self._table(alive))
        while (block := race.block) is not None:
            rows = [row for c in race.table.alive for row in self.candidates[c].rows]
            errors = yield ErrorRequest(latent, image_id, block, torch.tensor(rows))  # [n, rows]
            race.update(self._pooled(race, errors.T), self.rule)
        return race

    def _table(self, alive: tuple[int, ...]) -> ErrorTable:
        table = ErrorTable(
            len(self.candidates),
            sum(map(len, self.blocks)),
            [candidate.class_id for candidate in self.candidates],
            [len(candidate.rows) for candidate in self.candidates],
            self.learned.weight([s.timestep for block in self.blocks for s in block]) if self.learned else None,
        )
        table.alive = alive
        return table

    def _pooled(self, race: ImageRace, errors: Tensor) -> Tensor:
        """Mean over the rows of each alive candidate: [rows, n] -> [alive, n]."""
        if len(errors) == len(race.table.alive):
            return errors
        parts = errors.split([len(self.candidates[c].rows) for c in race.table.alive])
        return torch.stack([part.mean(0) for part in parts])


def race_together(
    score: DenoisingErrors,
    condition: Condition,  # the rows that requests name
    noise: NoiseSource,
    entrants: Iterable[tuple[Key, Requests[Result]]],  # asked for one by one, as places become free
    together: int,  # most images in the race at a time: bounds the memory, not the answers
) -> Iterator[tuple[Key, Result] | None]:
    """Yield the key and the result of every image as soon as it is decided; None after a call that decided none.

    A call has `score.rows` rows. An image that is left alone has its rows cut into calls of like length.
    """
    waiting = iter(entrants)
    racers: list[_Racer[Key, Result]] = []
    while True:
        while len(racers) < min(together, 2) or (len(racers) < together and _open(racers) < score.rows):
            entrant = next(waiting, None)
            if entrant is None:
                break
            racers.append(_Racer(*entrant))
        pieces = _pieces(racers, score)
        if pieces:
            errors = _evaluated(score, condition, noise, [piece for _, piece in pieces])
            for (racer, _), part in zip(pieces, errors, strict=True):
                racer.answer(part)
        decided = [racer for racer in racers if racer.request is None]
        racers = [racer for racer in racers if racer.request is not None]
        yield from ((racer.key, racer.result) for racer in decided)
        if not racers and not decided:
            return
        if not decided:
            yield None


class _Racer(Generic[Key, Result]):
    """An image in the race: its present request, and the errors of it that are known."""

    request: ErrorRequest | None  # None: the race is over
    result: Result

    def __init__(self, key: Key, requests: Requests[Result]) -> None:
        self.key = key
        self._requests = requests
        self._parts: list[Tensor] = []
        self._known = 0  # rows
        self._advance(lambda: next(requests))

    @property
    def open(self) -> int:
        """Rows of the request that are not evaluated."""
        return 0 if self.request is None else self.request.rows - self._known

    def piece(self, most: int) -> _Piece:
        """The next rows of the request, at most so many."""
        assert self.request is not None
        return _Piece(self.request, self._known, self._known + min(most, self.open))

    def answer(self, errors: Tensor) -> None:
        """Take the errors of the piece asked for last; a complete request is answered and followed by the next."""
        assert self.request is not None
        self._parts.append(errors)
        self._known += len(errors)
        if not self.open:
            whole = torch.cat(self._parts).view(len(self.request.block), len(self.request.candidates))
            self._advance(lambda: self._requests.send(whole))

    def _advance(self, step: Callable[[], ErrorRequest]) -> None:
        self._parts, self._known = [], 0
        try:
            self.request = step()
            while not self.request.rows:  # a stage of the published schedules may have no new samples
                self.request = self._requests.send(torch.empty(0, len(self.request.candidates)))
        except StopIteration as end:
            self.request, self.result = None, end.value


@dataclass(frozen=True)
class _Piece:
    """Rows [first, last) of a request, counted sample by sample."""

    request: ErrorRequest
    first: int
    last: int


def _pieces(racers: Sequence[_Racer[Key, Result]], score: DenoisingErrors) -> list[tuple[_Racer[Key, Result], _Piece]]:
    """The rows of the next call: those of the oldest image first, then of others."""
    left = score.rows if len(racers) > 1 else score.first_call(_open(racers))
    pieces: list[tuple[_Racer[Key, Result], _Piece]] = []
    for racer in racers:
        if left and racer.open:
            piece = racer.piece(left)
            pieces.append((racer, piece))
            left -= piece.last - piece.first
    return pieces


def _open(racers: Sequence[_Racer[Key, Result]]) -> int:
    """Rows that wait to be evaluated."""
    return sum(racer.open for racer in racers)


@torch.inference_mode()
def _evaluated(
    score: DenoisingErrors, condition: Condition, noise: NoiseSource, pieces: Sequence[_Piece]
) -> Sequence[Tensor]:
    """Errors of the rows of each piece, float32, on the CPU."""
    drawn: list[tuple[Tensor, Tensor, int]] = []  # latent, noise, timestep of each sample
    samples, candidates = [], []
    for piece in pieces:
        request, k = piece.request, len(piece.request.candidates)
        rows, shape = torch.arange(piece.first, piece.last), tuple(request.latent.shape)
        begin, end = piece.first // k, (piece.last - 1) // k + 1
        samples.append(rows // k - begin + len(drawn))
        candidates.append(request.candidates[rows % k])
        drawn += [(request.latent, noise(request.image_id, s, shape), s.timestep) for s in request.block[begin:end]]
    latents, eps, timesteps = zip(*drawn, strict=True)
    errors = score.pairs(
        torch.stack(latents),
        to_device(torch.stack(eps), latents[0].device),
        torch.tensor(timesteps),
        condition,
        torch.cat(samples),
        torch.cat(candidates),
    )
    return errors.cpu().split([piece.last - piece.first for piece in pieces])


def race_ranking(
    alive: Sequence[Sequence[int]],  # candidates of every block, then the final ones (Classification.alive)
    errors: Sequence[float],  # mean error per candidate
    classes: Sequence[int],  # whom each candidate speaks for
) -> list[int]:
    """Classes, best first, after a race: who stayed longer ranks higher, equals by their mean error.

    Means of candidates that left at different times rest on different samples, so they alone give no ranking.
    """
    order: dict[int, None] = {}
    for block in reversed(alive):
        order |= dict.fromkeys(sorted((c for c in block if c not in order), key=lambda c: errors[c]))
    return list(dict.fromkeys(classes[c] for c in order))
